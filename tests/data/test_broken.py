"""Broken pictures never end a run: they are left out, counted, named once, and replaced by nothing."""

from __future__ import annotations

import math
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dmkd.config import Config
from dmkd.data import Data, batches
from dmkd.data.batches import Batch, Batches, training_batches
from dmkd.data.cache import open_picture
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.prepare import check
from dmkd.data.views import Views
from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.stored import stored_embeddings
from dmkd.models import Network
from dmkd.models.embedder import build_network
from dmkd.space import override
from dmkd.trainer import fit
from tests.pictures import make_folder

VICTIM = "class_001/1-twemoji.png"
PLACE = 3
"""Of the victim in the listing."""
CPU = torch.device("cpu")


def half(root: Path, path: str = VICTIM) -> Path:
    """Cut a file in two: its header stays in order."""
    file = root / path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("whole"), classes=6, size=48)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def load(root: Path) -> Pictures:
    return load_dataset(Data(root=str(root)))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n"])
def test_what_a_look_at_the_first_bytes_shows_is_left_out_of_the_listing(copy: Path, content: bytes) -> None:
    (copy / VICTIM).write_bytes(content)
    with pytest.warns(UserWarning, match=f"1 broken pictures are left out: .*{VICTIM}"):
        pictures = load(copy)
    assert pictures.skipped == {"data/skipped": 1.0}
    assert VICTIM not in pictures.paths
    (copy / VICTIM).unlink()
    assert pictures.fingerprint == load(copy).fingerprint


def test_what_prepare_found_broken_is_left_out_until_it_is_mended(whole: Path, copy: Path) -> None:
    half(copy)
    assert load(copy).skipped == {}
    report = check("folder", str(copy))
    assert [path for path, _ in report.broken] == [VICTIM]
    assert "usable without the broken pictures" in report.lines()[-1]
    with pytest.warns(UserWarning, match="truncated"):
        pictures = load(copy)
    assert len(pictures) == 11
    assert pictures.fingerprint == report.fingerprint
    shutil.copy(whole / VICTIM, copy / VICTIM)
    assert load(copy).fingerprint == load(whole).fingerprint


def test_the_halves_stay_where_a_class_loses_all_its_pictures(copy: Path) -> None:
    for file in (copy / "class_000").iterdir():
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="2 broken pictures"):
        pictures = load(copy)
    assert pictures.split == ("train",) * 4 + ("test",) * 6


def test_more_than_half_broken_is_refused(copy: Path) -> None:
    for file in sorted(copy.rglob("*.png"))[:7]:
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"7 of 12 pictures cannot be read, the first: .*0 bytes"):
        load(copy)


def epoch(part: Pictures, views: Views, composition: Batches, **options: Any) -> list[Batch]:
    return list(
        training_batches(
            part, views, composition, **{"student_resolution": 24, "teacher_resolution": 32, "epoch": 1, "seed": 3, **options}
        )
    )


def without(batch: Batch, keep: torch.Tensor, tuples: torch.Tensor | None = None) -> Batch:
    rows = {name: getattr(batch, name)[keep] for name in ("student", "teacher", "labels", "index", "view", "role")}
    return replace(batch, **rows, tuples=None if batch.tuples is None else batch.tuples[tuples])


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    return all(mine is theirs is None or torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("views", [Views(per_image=2), Views(per_image=2, mixup=0.4, coupled=False)])
def test_a_batch_is_what_it_would_be_without_the_rows_of_the_broken_picture(
    whole: Path, copy: Path, views: Views, workers: int
) -> None:
    composition = Batches(kind="plain", size=6, iterations=4)
    expected = epoch(load(whole), views, composition)
    part = load(half(copy))
    with pytest.warns(UserWarning, match=f"left out of this run: .*{VICTIM}") as told:
        found = epoch(part, views, composition, workers=workers)
    # Python 3.12 warns of processes that start from one with threads, as loading processes do.
    assert len([warning for warning in told if not issubclass(warning.category, DeprecationWarning)]) == 1
    assert part.skipped == {"data/skipped": 1.0}
    shown = [(batch, theirs) for batch, theirs in zip(found, expected, strict=True)]
    assert any(len(batch.index) < 12 for batch, _ in shown)
    for batch, theirs in shown:
        assert PLACE not in batch.index
        assert batch.view.tolist() == [0, 1] * (len(batch.index) // 2)
        keep = torch.isin(theirs.index, batch.index)
        if views.mixup == 0:
            assert keep.tolist() == (theirs.index != PLACE).tolist()
            assert equal(batch, without(theirs, keep))
        else:  # those mixed with it are gone too, the others unchanged
            assert equal(
                batch,
                without(theirs, torch.tensor([any(torch.equal(row, own) for own in batch.student) for row in theirs.student])),
            )
    again = epoch(part, views, composition, workers=workers)
    assert all(equal(one, other) for one, other in zip(found, again, strict=True))


def test_tuples_with_a_broken_member_are_left_out(whole: Path, copy: Path) -> None:
    rows = torch.tensor([[0, 1, 4], [2, PLACE, 8], [4, 5, 0], [6, 7, PLACE], [8, 9, 2]])
    composition = Batches(kind="tuples", size=2, columns=2, drop_last=False)
    expected = epoch(load(whole), Views(), composition, tuples=rows)
    part = load(half(copy))
    with pytest.warns(UserWarning, match=VICTIM):
        list(batches.test_batches(part, 24, crop_ratio=1.0, batch_size=3))
    found = epoch(part, Views(), composition, tuples=rows)
    kept = [batch.tuples[~(batch.tuples == PLACE).any(1)].tolist() for batch in expected if batch.tuples is not None]
    assert [batch.tuples.tolist() for batch in found if batch.tuples is not None] == [lists for lists in kept if lists]
    for batch in found:
        assert batch.tuples is not None
        assert batch.index.tolist() == batch.tuples[:, :2].flatten().tolist()
        assert batch.role.tolist() == [0, 1] * len(batch.tuples)


def test_a_batch_of_broken_pictures_is_no_batch(copy: Path) -> None:
    part = load(half(copy)).part([PLACE, 0, 1])
    with pytest.warns(UserWarning, match=VICTIM):
        made = epoch(part, Views(), Batches(kind="plain", size=1, drop_last=False))
    assert sorted(batch.index.tolist() for batch in made) == [[1], [2]]


def test_an_epoch_without_a_batch_is_refused(copy: Path) -> None:
    part = load(half(copy))
    with pytest.raises(DataError, match=f"none of the pictures wanted could be read, among them .*{VICTIM}"):
        list(batches.test_batches(part, 24, crop_ratio=1.0, batch_size=3, positions=[PLACE]))


@pytest.mark.parametrize("transform", ["centre_crop", "max_side"])
def test_a_broken_picture_is_neither_query_nor_gallery(whole: Path, copy: Path, transform: str) -> None:
    torch.manual_seed(0)
    network = build_network(Network("resnet18", weights="none", dim=8, resolution=32)).eval()
    data, side = Data(transform=transform), Side(network, 32)
    measure = Measure(load(half(copy)), data, Evaluation(k=(1, 4)), CPU)
    with pytest.warns(UserWarning, match=VICTIM):
        vectors = measure.embed(side)
    rest = [position for position in range(12) if position != PLACE]
    clean = Measure(load(whole).part(rest), data, Evaluation(k=(1, 4)), CPU)
    torch.testing.assert_close(vectors[rest], clean.embed(side))
    assert not vectors[PLACE].any()
    found, outcomes = measure.compare(vectors, vectors)
    expected, theirs = clean.compare(vectors[rest], vectors[rest])
    assert found == pytest.approx(expected)
    assert outcomes.query.tolist() == [rest[query] for query in theirs.query]
    torch.testing.assert_close(measure.embed(side, [PLACE, 2]), vectors[[PLACE, 2]])


def test_features_of_a_part_with_a_broken_picture_are_not_kept(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMKD_FEATURES", str(tmp_path / "features"))
    torch.manual_seed(0)
    side = Side(build_network(Network("resnet18", weights="none", dim=8, resolution=32)).eval(), 32, "teacher")
    measure = Measure(load(half(copy)), Data(), Evaluation(), CPU)
    with pytest.warns(UserWarning, match=VICTIM):
        assert not stored_embeddings(measure, side)[PLACE].any()
    assert not (tmp_path / "features").exists()


def test_a_run_goes_on_counts_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "signs", classes=12, size=32)
    for path in ("class_000/1-twemoji.png", "class_009/0-openmoji.png"):
        half(root, path)
    changes = {"data.root": str(root), "data.validation": 0.4, "student.backbone": "timm/test_efficientnet", "student.dim": 8}
    changes |= {"student.weights": "none", "student.resolution": 32, "method.batches.size": 4, "optim.epochs": 2}
    config = override(Config(), {**changes, "evaluation.test": True, "student.frozen_batchnorm": False})
    with pytest.warns(UserWarning, match="left out of this run"):
        epochs = list(fit(config))
    assert epochs[-1].metrics["data/skipped"] == 2
    assert all(math.isfinite(value) for value in epochs[-1].metrics.values())
    with warnings.catch_warnings(action="ignore"):
        run = fit(config)
        state = next(run).state
        resumed = list(fit(config, state))[-1]
    for key, value in epochs[-1].model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])


def bomb(file: Path) -> None:
    """A PNG file of a hundred bytes whose header promises 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def tiff(file: Path) -> None:
    """A TIFF directory of a picture of 12,000 x 8,000 pixels, which Pillow itself would open with a warning."""
    from PIL import Image

    Image.new("1", (12_000, 8_000)).save(file, compression="group4")


@pytest.mark.parametrize("make", [bomb, tiff])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_gigantic_picture_is_refused_by_name(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge.png: gigantic: more than \d+ pixels"):
        open_picture(tmp_path / "huge.png")
