"""Cards of a cluster, as trials see them: two simulated nodes with two declared GPUs each, on a Ray of their own."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tests.sweeps.scripts import run_apart

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import ray
from ray import tune
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray.cluster_utils import Cluster
from dmkd.config import Config
from sweeps.cluster import find_resources, run_tuner
from sweeps.shared import Shared

class Looks(tune.Trainable):
    def setup(self, config, shared=None):
        self.key, self.folder = config["run"]["key"], shared.folder

    def reset_config(self, config):
        self.setup(config)
        return True

    def step(self):
        began = time.time()
        time.sleep(8)  # longer than a worker takes to start: Tune would give its trial to one that has become free
        seen = {"cards": os.environ.get("CUDA_VISIBLE_DEVICES"), "node": ray.get_runtime_context().get_node_id()}
        (self.folder / f"{self.key}.json").write_text(json.dumps(seen | {"began": began, "ended": time.time()}))
        return {"done": True, "epoch": 1, "val/recall_at_1": 1.0, "history": []}

ensure_token_if_auth_enabled(None, create_token_if_missing=True)
small = {"object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | small)
for _ in range(2):
    cluster.add_node(num_cpus=4, num_gpus=2, **small)
ray.init(cluster.address, log_to_driver=False)
for gpus in (1.0, 0.5):
    folder = Path(sys.argv[1]) / str(gpus)
    folder.mkdir()
    shared = Shared(Config(), folder, "", "e", "s", None, "val/recall_at_1", {})
    jobs = [{"key": f"t{number}", "values": {}, "tags": {}} for number in range(8)]
    run_tuner("search", shared, find_resources(gpus, 0, None), len(jobs), trainable=Looks, runs=jobs)
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[dict[str, Any]]]:
    """What each trial noted, by the GPUs that it asked for."""
    folder = tmp_path_factory.mktemp("cards")
    run_apart(SCRIPT, folder, 400)
    return {gpus: [json.loads(path.read_text()) for path in sorted((folder / str(gpus)).glob("*.json"))] for gpus in (1.0, 0.5)}


@pytest.mark.parametrize("gpus", [1.0, 0.5])
def test_a_trial_sees_one_card_of_its_node(seen: dict[float, list[dict[str, Any]]], gpus: float) -> None:
    assert len(seen[gpus]) == 8
    cards = Counter((note["node"], note["cards"]) for note in seen[gpus])
    nodes = {node for node, _ in cards}
    assert len(nodes) == 2
    assert set(cards) == {(node, card) for node in nodes for card in ("0", "1")}


@pytest.mark.parametrize(("gpus", "at_once"), [(1.0, 1), (0.5, 2)])
def test_no_card_is_given_to_more_trials_than_share_it(
    seen: dict[float, list[dict[str, Any]]], gpus: float, at_once: int
) -> None:
    for card in {(note["node"], note["cards"]) for note in seen[gpus]}:
        held = sorted((note["began"], note["ended"]) for note in seen[gpus] if (note["node"], note["cards"]) == card)
        together = [sum(began <= other < ended for began, ended in held) for other, _ in held]
        assert max(together) <= at_once
        assert at_once == 2 or all(before[1] <= after[0] for before, after in pairwise(held))
