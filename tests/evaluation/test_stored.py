from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmkd.checkpoint import save_model
from dmkd.config import Config, config_hash
from dmkd.context import Context
from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.distill.base import Plan
from dmkd.errors import CheckpointError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.stored import cache_file, features_folder, fingerprint, read_features, stored_embeddings, write_features
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, assemble
from dmkd.space import override
from dmkd.trainer import fit

DATA = Data(name="folder", crop_ratio=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMKD_FEATURES", str(tmp_path / "features"))
    return tmp_path / "features"


@pytest.fixture(scope="module")
def network() -> EmbeddingNet:
    torch.manual_seed(0)
    return assemble(Network("resnet18", "none", dim=8, resolution=32)).eval()


def make_pictures(root: Path) -> Path:
    """Bitmaps: a file's size does not depend on what it shows."""
    rng = np.random.default_rng(0)
    for label in range(4):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / f"class{label}" / f"{number}.bmp")
    return root


def measure_of(root: Path, data: Data = DATA) -> Measure:
    data = replace(data, root=str(root))
    return Measure(load_dataset(data), data, Evaluation(batch_size=4), torch.device("cpu"))


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return measure_of(make_pictures(tmp_path / "pictures"))


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measure, "embed", lambda *_: pytest.fail("embedded again"))


def test_features_are_those_of_the_teacher_and_computed_once(
    measure: Measure, network: EmbeddingNet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = Side(network, 32, "teacher")
    expected = measure.embed(side)
    assert torch.equal(stored_embeddings(measure, side), expected)
    assert [file.suffix for file in cache.iterdir()] == [".safetensors"], "one file, nothing left beside it"
    forbid(monkeypatch)
    assert torch.equal(stored_embeddings(measure, side), expected)
    assert torch.equal(stored_embeddings(measure_of(shutil.copytree(measure.part.root, cache / "copy")), side), expected)


def other_weights(measure: Measure, side: Side) -> tuple[Measure, Side]:
    twin = side.network.clone()
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0] += 1e-3
    return measure, replace(side, network=twin)


def other_pixel(measure: Measure, side: Side) -> tuple[Measure, Side]:
    """One picture is exchanged for another of the same name and size."""
    file = Path(measure.part.file(3))
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(bytes(content))
    return measure_of(measure.part.root), side


def other_order(measure: Measure, side: Side) -> tuple[Measure, Side]:
    return replace(measure, part=measure.part.part([1, 0, *range(2, len(measure.part))])), side


def other_data(**changes: Any) -> Callable[[Measure, Side], tuple[Measure, Side]]:
    return lambda measure, side: (replace(measure, data=replace(measure.data, **changes)), side)


def other_interpolation(measure: Measure, side: Side) -> tuple[Measure, Side]:
    twin = side.network.clone()
    twin.preprocess = replace(twin.preprocess, interpolation="bicubic")
    return measure, replace(side, network=twin)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_weights, r"weights \(found"),
        (other_interpolation, r"transform.interpolation \(found bilinear, wanted bicubic\)"),
        (lambda measure, side: (measure, replace(side, resolution=48)), r"transform.center_crop \(found 32, wanted 48\)"),
        (other_data(crop_ratio=0.5), r"transform.crop_ratio \(found 1.0, wanted 0.5\)"),
        (other_data(use_boxes="all"), r"transform.boxes \(found False, wanted True\)"),
        (other_pixel, r"images \(found"),
        (other_order, r"images \(found"),
        (lambda measure, side: (replace(measure, part=measure.part.part([0, 1])), side), r"count \(found 8, wanted 2\)"),
    ],
    ids=["weights", "interpolation", "resolution", "crop", "boxes", "pixel", "order", "fewer"],
)
def test_what_features_depend_on_is_in_their_name_and_stale_ones_are_refused(
    change: Callable[[Measure, Side], tuple[Measure, Side]], named: str, measure: Measure, network: EmbeddingNet, cache: Path
) -> None:
    side = Side(network, 32, "teacher")
    stored_embeddings(measure, side)
    (given,) = cache.iterdir()
    shutil.copy(given, cache.parent / "given.safetensors")
    changed, other = change(measure, side)
    with pytest.raises(CheckpointError, match=f"given.safetensors: stale, of other .*{named}.*it is not used") as caught:
        stored_embeddings(changed, other, str(cache.parent / "given.safetensors"))
    assert "\n" not in str(caught.value)
    expected = changed.embed(other)
    assert torch.equal(stored_embeddings(changed, other), expected), "the cache makes them under another name"
    assert len(list(cache.iterdir())) == 2


def test_a_given_file_that_fits_is_used(
    measure: Measure, network: EmbeddingNet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, file = Side(network, 32, "teacher"), cache / "mine.safetensors"
    features = torch.randn(8, 8)
    write_features(features, fingerprint(measure, side), file)
    forbid(monkeypatch)
    assert torch.equal(stored_embeddings(measure, side, str(file)), features)
    context = Context(0, Plan(1, 1), 0, measure, {"teacher": side}, labels=torch.zeros(8), features=str(file))
    assert torch.equal(context.embed(torch.arange(8), "teacher"), features)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flipped, "altered since it was written"),
        (lambda content: content.replace(b"center_crop", b"center_crap"), "altered since it was written"),
        (lambda content: content[:-5], "no file of stored features, or truncated"),
        (lambda content: b"", "no file of stored features, or truncated"),
        (lambda content: content.replace(b"dmkd-features-1", b"dmkd-features-9"), "format 'dmkd-features-9'"),
    ],
)
def test_a_damaged_file_is_refused_where_given_and_made_anew_in_the_cache(
    harm: Callable[[bytes], bytes], message: str, measure: Measure, network: EmbeddingNet, cache: Path
) -> None:
    side = Side(network, 32, "teacher")
    expected = stored_embeddings(measure, side)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(harm(good))
    with pytest.raises(CheckpointError, match=message):
        stored_embeddings(measure, side, str(file))
    assert torch.equal(stored_embeddings(measure, side), expected)
    assert file.read_bytes() == good, "whoever computes the same writes the same bytes"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(7, 8), "found 7 rows, wanted 8"),
        (torch.full((8, 8), torch.nan), "every number finite"),
        (torch.zeros(8, 8, dtype=torch.float16), "no file of stored features"),
        (torch.zeros(64), "no file of stored features"),
    ],
    ids=["fewer rows", "not finite", "half precision", "no matrix"],
)
def test_a_whole_file_of_what_cannot_be_features_is_refused(
    features: torch.Tensor, message: str, measure: Measure, network: EmbeddingNet, cache: Path
) -> None:
    side, file = Side(network, 32, "teacher"), cache / "mine.safetensors"
    write_features(features, fingerprint(measure, side), file)
    with pytest.raises(CheckpointError, match=message):
        stored_embeddings(measure, side, str(file))


def test_many_writers_and_readers_never_meet_a_half_written_file(measure: Measure, network: EmbeddingNet, cache: Path) -> None:
    features = torch.randn(2000, 64)
    wanted = fingerprint(measure, Side(network, 32, "teacher")) | {"count": len(features)}
    file = cache / "shared.safetensors"
    write_features(features, wanted, file)

    def trial(number: int) -> bool:
        if number % 2:
            write_features(features, wanted, file)
        return torch.equal(read_features(file, wanted), features)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(trial, range(40)))
    assert [entry.name for entry in cache.iterdir()] == ["shared.safetensors"]


def test_none_stores_nothing_and_a_missing_file_says_where_they_would_be(
    measure: Measure, network: EmbeddingNet, cache: Path
) -> None:
    side = Side(network, 32, "teacher")
    assert torch.equal(stored_embeddings(measure, side, "none"), measure.embed(side))
    assert not cache.exists()
    with pytest.raises(CheckpointError, match=f"no such file.*kept as {cache_file(fingerprint(measure, side), measure)}"):
        stored_embeddings(measure, side, "nowhere.safetensors")


def test_a_cache_that_cannot_be_written_costs_time_not_the_run(measure: Measure, network: EmbeddingNet, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    side = Side(network, 32, "teacher")
    with pytest.warns(UserWarning, match="cannot be kept in"):
        assert torch.equal(stored_embeddings(measure, side), measure.embed(side))


def test_the_student_and_single_pictures_are_never_taken_from_the_store(
    measure: Measure, network: EmbeddingNet, cache: Path
) -> None:
    sides = {"teacher": Side(network, 32, "teacher"), "student": Side(network, 32)}
    context = Context(0, Plan(1, 1), 0, measure, sides, labels=torch.zeros(8), features="")
    whole = context.embed(range(8), "student")
    torch.testing.assert_close(context.embed([5, 2], "teacher"), whole[[5, 2]])
    assert not cache.exists()
    torch.testing.assert_close(context.embed(range(8), "teacher"), whole, rtol=0, atol=0)
    assert len(list(cache.iterdir())) == 1


def test_a_run_takes_its_teachers_features_from_the_store(measure: Measure, network: EmbeddingNet, cache: Path) -> None:
    save_model(network, cache.parent / "teacher", resolution=32)
    small = {
        "student.backbone": "resnet18",
        "student.weights": "none",
        "student.dim": 8,
        "student.resolution": 32,
        "optim.epochs": 1,
    }
    method = {"method.preset": "aml_regression", "method.batches.size": 2, "method.batches.iterations": 2}
    data = {"data.root": str(measure.part.root), "data.crop_ratio": 1.0, "data.validation": 0.0, "evaluation.batch_size": 4}
    config = override(Config(), small | method | data | {"teacher.checkpoint": str(cache.parent / "teacher")})
    kept, again, computed = (
        next(fit(override(config, {"teacher.features": features}))).metrics["train/loss"] for features in ("", "", "none")
    )
    assert kept == again == computed
    (file,) = cache.iterdir()
    assert config_hash(override(config, {"teacher.features": str(file)})) == config_hash(config), "the same row of a leaderboard"
    assert next(fit(override(config, {"teacher.features": str(file)}))).metrics["train/loss"] == kept
    stale = override(config, {"teacher.features": str(file), "teacher.resolution": 48})
    with pytest.raises(CheckpointError, match=r"stale, of other transform.center_crop"):
        next(fit(stale))


def test_where_features_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DMKD_FEATURES")
    monkeypatch.setenv("DMKD_CACHE", "/shared")
    assert features_folder() == Path("/shared/features")
    monkeypatch.delenv("DMKD_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert features_folder() == Path.home() / ".cache/dmkd/features"
