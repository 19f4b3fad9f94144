"""Trials to a card: what is tried, what is chosen, and (slow) a whole sweep on cards that a real Ray was told of."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dmkd.config import Config
from dmkd.models.embedder import build_network
from dmkd.models.registry import count_gflops
from dmkd.packing import RESERVE, Probe, choose_packing
from dmkd.space import Choice, override
from sweeps.occupant import Seen
from sweeps.options import Options
from sweeps.packing import Measured, costliest, fill, most_at_once, share
from sweeps.plan import Definition, configured
from sweeps.rows import Job
from sweeps.space import Searched
from sweeps.sweep import run_sweep
from sweeps.tables.run import _largest
from tests.sweeps.conftest import TINY
from tests.sweeps.scripts import run_apart
from tracking.reading import load_runs


class Card:
    """A card by Amdahl's law: of a trial's time the part `serial` is the card's alone; all else overlaps with other trials."""

    def __init__(self, serial: float, each_mb: float, total_mb: float, broken_at: int = 99, beside_mb: float = 0) -> None:
        self.serial, self.each_mb, self.total_mb, self.broken_at = serial, each_mb, total_mb, broken_at
        self.beside_mb = beside_mb
        """What each process takes beside its tensors."""
        self.trials = 0

    def rate(self, count: int) -> float:
        return 100 * min(count, 1 / self.serial)

    def add(self) -> list[Seen]:
        self.trials += 1
        if self.trials >= self.broken_at:
            raise RuntimeError("CUDA out of memory")
        one = Seen(
            images_per_second=self.rate(self.trials) / self.trials,
            peak_mb=self.each_mb,
            used_mb=self.trials * (self.each_mb + self.beside_mb),
            card_mb=self.total_mb,
            card="simulated",
        )
        return [one] * self.trials


@pytest.mark.parametrize("serial", [0.12, 0.34, 0.51, 1.0])
@pytest.mark.parametrize("each_mb", [2000, 9000, 20_000, 45_000])
def test_a_card_is_filled_to_where_it_serves_best(serial: float, each_mb: float) -> None:
    card = Card(serial, each_mb, 80_000)
    found = fill(card, 8)
    fits = [count for count in range(1, 9) if count * each_mb <= (1 - RESERVE) * 80_000]
    assert found.packing == choose_packing({count: Probe(card.rate(count), each_mb) for count in fits}, 80_000)
    assert max(found.probes) <= max(fits)
    assert max(found.probes) <= found.packing.trials + 2
    assert found.note or len(found.probes) == 8


def test_what_processes_take_beside_their_tensors_counts() -> None:
    """Eight small trials would fill the card with their tensors to 8/9 of what may be had, and with their contexts beyond it."""
    assert fill(Card(0.1, 2000, 20_000), 8).packing.trials == 8
    assert fill(Card(0.1, 2000, 20_000, beside_mb=600), 8).packing.trials == 6


def test_trials_that_do_not_go_together_are_none_too_few() -> None:
    found = fill(Card(0.1, 1000, 80_000, broken_at=3), 8)
    assert (found.packing.trials, sorted(found.probes)) == (2, [1, 2])
    assert "3 at once failed (CUDA out of memory)" in found.note
    with pytest.raises(RuntimeError, match="out of memory"):
        fill(Card(0.1, 1000, 80_000, broken_at=1), 8)


def test_what_was_measured_survives_the_record() -> None:
    found = fill(Card(0.3, 9000, 40_000), 8)
    assert Measured.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert [count for count, _ in found.metrics()] == list(found.probes)
    assert f"{found.packing.trials} to a card" in found.lines()[1]


@pytest.mark.parametrize(
    ("cpus", "cards", "wanted", "most"),
    [(8, 4, 100, 8), (3, 4, 100, 3), (8, 4, 4, 1), (8, 4, 9, 3), (1, 1, 50, 1), (64, 1, float("inf"), 8)],
)
def test_no_card_is_left_empty_for_a_full_one(cpus: int, cards: int, wanted: float, most: int) -> None:
    assert most_at_once(cpus, cards, wanted) == most
    assert most * share(most) <= 1


def test_the_largest_trial_of_a_space_is_probed(base: Config) -> None:
    backbones, sides = ("timm/mobilenetv3_small_050", "timm/mobilenetv3_small_100"), (32, 64)
    space = {"student.backbone": Choice(backbones), "student.resolution": Choice(sides), "optim.lr": Choice((1e-3, 1e-2))}
    searched = Searched(override(base, {"teacher.checkpoint": "x"}), space)
    costs = {
        (name, side): count_gflops(build_network(override(TINY, {"backbone": name, "resolution": side})), side)
        for name, side in product(backbones, sides)
    }
    largest = costliest(searched, lambda values: "").student
    assert (largest.backbone, largest.resolution) == max(costs, key=costs.__getitem__)
    allowed = costliest(searched, lambda values: "too much" * (values["student.resolution"] > 32)).student
    assert (allowed.backbone, allowed.resolution) == ("timm/mobilenetv3_small_100", 32)


def test_of_a_tables_rows_the_largest_that_trains_is_probed() -> None:
    def job(name: str, **values: Any) -> Job:
        return Job(name, {f"student.{key}": value for key, value in values.items() if key != "epochs"} | {
            "optim.epochs": values["epochs"]}, {})  # fmt: skip

    small, large = job("a", resolution=112, epochs=3), job("b", resolution=160, epochs=3)
    evaluated = job("c", resolution=224, epochs=0)
    found = _largest([small, evaluated, large])
    assert found is not None
    assert found.student.resolution == 160
    assert _largest([evaluated]) is None


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_without_a_gpu_it_says_so_and_trains_on_cpus(teacher: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    definition = Definition("unpacked", teacher, references=(), trials=1, seeds=1)
    options = Options(storage=str(tmp_path / "out"), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", gpus_per_trial="auto")
    assert run_sweep(configured(definition, options), options) == []
    assert "packing (--gpus-per-trial auto): this cluster has no GPU: trials train on CPUs" in capsys.readouterr().err


SCRIPT = """
import os, sys
from pathlib import Path
import ray
from dmkd.config import load
from dmkd.space import Choice
from sweeps import occupant, packer
from sweeps.options import Options
from sweeps.plan import Definition, configured
from sweeps.sweep import run_sweep

class Replaced(occupant.Occupant):
    '''A real trial, on a CPU: what a card would say is replaced, and its rate, which says nothing on a busy machine.'''

    def device(self):
        return "cpu"

    def memory(self):
        Path(notes, f"{os.getpid()}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        return 280.0, 1000.0, "simulated card"

    def used(self):
        return 280.0

    def seen(self):
        found = super().seen()
        assert found["images_per_second"] > 0
        return found | {"images_per_second": 100.0}

folder = sys.argv[1]
notes = folder + "/cards"
os.mkdir(notes)

class Card(occupant.Card):
    def __init__(self, config, cores, most):
        super().__init__(config, cores, most, occupant.Pace(1.0, 5, 120.0), Replaced)

packer.Card = Card
ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
space = {"optim.lr": Choice((1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3))}
definition = Definition("packed", load(Path(folder) / "base.yaml"), space, references=(), trials=3, finalists=1, seeds=1)
for more in ({}, {"extend": 3}):
    options = Options(storage=folder + "/out", tracking_uri=f"sqlite:///{folder}/mlflow.db", gpus_per_trial="auto", **more)
    print("SESSION", file=sys.stderr)
    run_sweep(configured(definition, options), options)
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, teacher: Config) -> tuple[Path, list[str]]:
    """A sweep, and the same extended, on a node with two declared cards; what each session said."""
    from dmkd.config import to_yaml

    folder = tmp_path_factory.mktemp("packed")
    (folder / "base.yaml").write_text(to_yaml(teacher))
    told = run_apart(SCRIPT, folder, 1500)
    return folder, told.split("SESSION\n")[1:]


@pytest.mark.slow
def test_a_sweep_measures_once_and_says_logs_and_keeps_what_it_chose(packed: tuple[Path, list[str]]) -> None:
    folder, (first, second) = packed
    known = Measured.from_dict(json.loads((folder / "out" / "packed" / "sweep.json").read_text())["packing"])
    assert known.probes == {1: Probe(100.0, 280.0), 2: Probe(200.0, 280.0)}
    assert (known.card, known.packing.trials, known.packing.speedup) == ("simulated card", 2, 2.0)
    chosen, used = "2 to a card, 2.00 x the images of one by one", "2 to a card for 3 runs on 2 cards"
    assert "a probe on one card" in first
    assert "as chosen when the sweep began" not in first
    assert "a probe on one card" not in second
    assert "as chosen when the sweep began" in second
    for session in (first, second):
        assert chosen in session
        assert used in session
    assert "1 to a card for 1 runs on 2 cards" in first  # of the final stage: a card each
    runs: list[dict[str, Any]] = load_runs(f"sqlite:///{folder}/mlflow.db", "folder/packed").to_dicts()
    parent = next(row for row in runs if row["name"] == "packed")
    assert parent["tags.dmkd.packing"] == chosen
    assert (parent["metrics.packing/images_per_second"], parent["metrics.packing/memory_mb"]) == (200.0, 280.0)
    assert {row["status"] for row in runs} == {"FINISHED"}


@pytest.mark.slow
def test_the_trials_of_a_probe_share_one_card(packed: tuple[Path, list[str]]) -> None:
    cards = [path.read_text() for path in (packed[0] / "cards").iterdir()]
    assert len(cards) == 2
    assert len(set(cards)) == 1
