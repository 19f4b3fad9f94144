"""What a dry run says of a plan, against the trainer itself: steps, pictures, bytes, and (within 30 %) time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dmkd.config import Config
from dmkd.data.batches import training_batches
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import split
from dmkd.evaluation.measure import Measure
from dmkd.models import Network
from dmkd.models.embedder import build_network
from dmkd.models.registry import count_gflops, count_parameters
from dmkd.run import train_into
from dmkd.space import override
from dmkd.trainer import fit
from sweeps import estimate
from sweeps.estimate import Load, disk, gflops, parameters, seconds, work
from sweeps.forecast import forecast, kind, lines
from sweeps.probe import probe
from sweeps.sizes import KNOWN, find_size, known_size, size_of
from tests.every_method import CASES, make_tree, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree") / "pictures")


def load_of(config: Config, runs: int = 1, teacher: Network | None = None) -> Load:
    return Load("x", config, size_of(split(load_dataset(config.data), config.data)), runs, teacher)


@pytest.mark.parametrize("name", ["metric_learning", "s2sd", "raml", "symmetric", "grouped_triplet"])
def test_steps_and_pictures_are_those_that_the_loader_draws(name: str, tree: Path) -> None:
    """Counted by going through an epoch of real batches; without `iterations` where that is the method's own way."""
    assert name in CASES
    config = tiny(name, tree, changes={"method.batches.iterations": 0} if name in ("metric_learning", "s2sd") else {})
    parts = split(load_dataset(config.data), config.data)
    tuples = None
    if config.method.batches.kind == "tuples":
        width = 4 if name == "grouped_triplet" else 2 + 2
        width = config.method.batches.images_per_class if name == "grouped_triplet" else width
        tuples = torch.arange(12)[:, None].expand(-1, width).contiguous()
    batches = training_batches(
        parts.train,
        config.method.views,
        config.method.batches,
        student_resolution=32,
        teacher_resolution=None,
        epoch=0,
        seed=0,
        tuples=tuples,
    )
    drawn = [len(batch.labels) for batch in batches]
    told = work(load_of(config))
    assert told.steps == config.optim.epochs * len(drawn)
    assert told.images == config.optim.epochs * sum(drawn)


def test_the_size_of_data_that_are_there_is_counted_and_of_others_known(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DMKD_DATA", raising=False)
    config = tiny("metric_learning", tree)
    size, gone = find_size(config.data, "folder")
    assert (size.classes, size.train, size.val, size.test, gone) == (4, 16, 8, 24, "")
    absent = override(Config(), {"data.name": "cars196", "data.validation": 0.0}).data
    size, gone = find_size(absent, "cars196")
    assert (size.classes, size.train, size.val, size.test) == (98, 8054, 0, 8131)
    assert "then: dmkd prepare cars196 --root DIR" in gone
    held = known_size(override(Config(), {"data.validation": 0.2}).data, "cub200")
    assert (held.classes, held.train + held.val) == (80, 5864)
    from dmkd.data.datasets import DATASETS

    for name, (classes, train, test_classes, test) in KNOWN.items():
        info = DATASETS[name]
        assert info.train_images == train, name
        if name != "sfm120k":
            assert (info.classes, info.images) == (classes + test_classes, train + test), name


def test_gflops_and_parameters_are_counted_and_the_size_scaled_by_area() -> None:
    network = Network(backbone="resnet18", weights="none", dim=64, resolution=128)
    net = build_network(network)
    assert parameters(network) == count_parameters(net)
    assert gflops(network) == pytest.approx(count_gflops(net, 128), rel=0.02)


def test_the_arithmetic_of_a_run() -> None:
    """ResNet-50 at 224 px for 150 epochs of CUB: 4.09 G multiply-adds, three passes, 52 steps of 112 pictures."""
    config = override(Config(), {"data.name": "cub200", "data.validation": 0.0, "evaluation.test": True})
    load = Load("x", config, known_size(config.data, "cub200"), 5)
    told = work(load)
    assert (told.steps, told.images) == (150 * 52, 150 * 52 * 112)
    assert told.multiply_adds == pytest.approx((3 * told.images + 5924) * 4.09e9, rel=0.01)
    assert told.decoded == told.images + 5924
    assert seconds(load) == pytest.approx(told.multiply_adds / estimate.GPU_RATE + told.decoded / estimate.DECODED)
    overlapping = Load("x", override(config, {"data.workers": 8}), load.size, 5)
    assert seconds(overlapping) == pytest.approx(max(told.multiply_adds / estimate.GPU_RATE, told.decoded / estimate.DECODED / 8))
    assert disk([load])["checkpoints"] == pytest.approx(5 * 2 * 4 * parameters(config.student))


def test_pictures_on_the_device_are_loaded_once() -> None:
    fields = {"data.name": "cub200", "data.validation": 0.0, "evaluation.test": True, "data.device_views": True}
    config = override(Config(), fields)
    size = known_size(config.data, "cub200")
    assert work(Load("x", config, size, 5)).decoded == 5864 + 5924
    host = override(config, {"method.views.augmentation": "none"})
    assert work(Load("x", host, size, 5)).decoded == 150 * 52 * 112 + 5924, "the host makes the test transform"


def test_the_checkpoints_of_a_run_take_the_disk_that_was_said(tree: Path, tmp_path: Path) -> None:
    config = tiny("metric_learning", tree)
    list(train_into(config, tmp_path))
    weights = (tmp_path / "checkpoint" / "weights.safetensors").stat().st_size
    assert disk([load_of(config)])["checkpoints"] / 2 == pytest.approx(weights, rel=0.25)  # buffers and names are not counted


def test_the_measured_time_is_within_30_percent_of_a_run(tree: Path) -> None:
    """Processor time, which neighbours on this machine change little; the best of three tries."""
    config = tiny("metric_learning", tree, changes={"optim.epochs": 4, "method.batches.iterations": 12})
    load, parts = load_of(config), split(load_dataset(config.data), config.data)
    errors = []
    for _ in range(3):
        told = probe(load, parts, clock=time.process_time).seconds(load)
        started = time.process_time()
        list(fit(config))
        errors.append(abs(told / (time.process_time() - started) - 1))
        if errors[-1] < 0.3:
            break
    assert min(errors) < 0.3, errors


def test_what_a_first_test_alone_takes_is_not_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries and kernels are loaded once a process: laid on each pair of 448 pictures, a second of that is hours of a run."""
    config, now, used = tiny("metric_learning", tree), [0.0], set[str]()

    def slow_at_first(name: str) -> Callable[..., Any]:
        does = getattr(Measure, name)

        def done(*given: Any, **more: Any) -> Any:
            now[0] += 1.0 if name in used else 1000.0
            used.add(name)
            return does(*given, **more)

        return done

    for name in ("embed", "compare"):
        monkeypatch.setattr(Measure, name, slow_at_first(name))
    parts = split(load_dataset(config.data), config.data)
    assert parts.val is not None
    told = probe(load_of(config), parts, clock=lambda: now[0])
    assert (told.embedded * len(parts.val), told.compared * len(parts.val) ** 2) == pytest.approx((1.0, 1.0))


def test_a_probe_of_a_taught_run_needs_no_teacher(tree: Path) -> None:
    config = tiny("yu", tree, changes={"method.batches.iterations": 2})
    teacher = Network(backbone="timm/test_efficientnet", weights="imagenet", dim=8, resolution=48)
    load = load_of(config, teacher=teacher)
    told = probe(load, split(load_dataset(config.data), config.data))
    assert told.seconds(load) > 0
    assert told.step >= 0


def test_a_forecast_measures_each_kind_once_and_scales_the_rest(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("metric_learning", tree, changes={"optim.epochs": 1})
    twice = override(config, {"optim.epochs": 2})
    probed = []

    class Told:
        def seconds(self, load: Load) -> float:
            return 10.0 * load.config.optim.epochs

    def counted(load: Load, parts: object) -> Told:
        probed.append(load.label)
        return Told()

    monkeypatch.setattr("sweeps.forecast.probe", counted)
    size = size_of(split(load_dataset(config.data), config.data))
    loads = [
        Load("one", config, size, 1),
        Load("two", twice, size, 3),
        Load("far", override(config, {"student.dim": 9}), size, 1),
    ]
    assert kind(loads[0]) == kind(loads[1]) != kind(loads[2])
    parts = split(load_dataset(config.data), config.data)
    found = forecast(loads, lambda load: None if load.label == "far" else parts, probing=True)
    assert probed == ["one"]
    ratio = seconds(loads[1]) / seconds(loads[0])
    assert found.seconds["two"] == pytest.approx(10.0 * ratio)
    assert found.seconds["far"] == pytest.approx(10.0 * seconds(loads[2]) / seconds(loads[0]))
    assert "1 rows scaled" in found.basis
    text = "\n".join(lines(loads, found))
    total = (found.seconds["one"] + 3 * found.seconds["two"] + found.seconds["far"]) / 3600
    assert f"in all: 5 runs, {total:.2g} {found.unit}-hours" in text
    assert forecast(loads, lambda load: parts, probing=False).basis.startswith("reckoned")
