"""One copy of the decoded pictures a machine, mapped by all trials on it: real trials in processes of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dmkd.config import Config, load, to_yaml
from dmkd.data import cache
from dmkd.space import override
from sweeps.cluster import Resources, run_tuner
from sweeps.shared import Shared
from sweeps.trial import Trial
from tests.sweeps.scripts import run_apart

DECODE = cache.open_picture


class Looking(Trial):
    """A trial that notes which pictures its process has decoded, and what it has mapped."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        assert shared is not None
        os.environ["DMKD_CACHE"] = str(shared.folder.parent / "cache")
        os.environ.pop(cache.SHARE, None)
        self.decoded: list[str] = []
        cache._caches.clear()

        def counted(path: str) -> Any:
            self.decoded.append(path)
            return DECODE(path)

        cache.open_picture = counted  # type: ignore[assignment]
        super().setup(config, shared)

    def step(self) -> dict[str, Any]:
        result = super().step()
        mapped = {line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("/pixels")}
        told = {"pid": os.getpid(), "decoded": self.decoded, "mapped": sorted(mapped), "node": self.node()}
        (self.shared.folder / f"{self.job['key']}.json").write_text(json.dumps(told))
        return result

    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


def looks(folder: Path, base: Config) -> list[dict[str, Any]]:
    """What three trials noted: one alone, then two at once."""
    (folder / "trials").mkdir()
    base = override(base, {"optim.epochs": 2})
    shared = Shared(base, folder / "trials", f"sqlite:///{folder}/mlflow.db", "e", "s", None, "val/recall_at_1", {})
    rates = (1e-3, 2e-3, 3e-3)  # of one seed: they are shown the same pictures
    jobs = [{"key": f"trial{number}", "values": {"optim.lr": rate}, "tags": {}} for number, rate in enumerate(rates)]
    for some in (jobs[:1], jobs[1:]):
        run_tuner("look", shared, Resources(1, 0.0, len(some)), len(some), trainable=Looking, runs=some)
    return [json.loads((folder / "trials" / f"{job['key']}.json").read_text()) for job in jobs]


def check(first: dict[str, Any], *others: dict[str, Any]) -> None:
    assert len(first["decoded"]) == len(set(first["decoded"])) >= 18 + 8, "validation and a batch at least, each picture once"
    assert len({one["pid"] for one in (first, *others)}) == 3
    assert [one["decoded"] for one in others] == [[], []]
    assert len(first["mapped"]) == 1
    assert all(one["mapped"] == first["mapped"] for one in others), "the inode of one file"


@pytest.mark.slow
def test_trials_of_a_node_decode_each_picture_once_and_map_one_copy(ray_cluster: None, teacher: Config, tmp_path: Path) -> None:
    check(*looks(tmp_path, teacher))


SCRIPT = """
import json, sys
from pathlib import Path
import ray
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray.cluster_utils import Cluster
from dmkd.config import load
from tests.sweeps.test_shared_pictures import looks

folder = Path(sys.argv[1])
ensure_token_if_auth_enabled(None, create_token_if_missing=True)
small = {"object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | small)
for _ in range(2):
    cluster.add_node(num_cpus=1, **small)
ray.init(cluster.address, log_to_driver=False)
(folder / "told.json").write_text(json.dumps(looks(folder, load(folder / "base.yaml"))))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_simulated_nodes_of_one_machine_share_it_too(teacher: Config, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(to_yaml(teacher))
    assert load(tmp_path / "base.yaml") == teacher
    run_apart(SCRIPT, tmp_path, 1500)
    told = json.loads((tmp_path / "told.json").read_text())
    assert len({one["node"] for one in told[1:]}) == 2
    check(*told)
