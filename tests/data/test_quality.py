"""What each side sees: degraded views and boxes, against Pillow by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dmkd.data import CLEAN, Data, Quality, batches
from dmkd.data.batches import Batch, Batches, training_batches
from dmkd.data.boxes import cut_to_box
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.rows import VIEW
from dmkd.data.splits import split
from dmkd.data.views import Views, apply_view, centre_view, degrade, draw_view, generator
from dmkd.errors import ConfigError, DataError
from tests.pictures import make_manifest, sign_picture

BOX = (9, 5, 40, 30)
LOW = Data(degradation="low_resolution", degraded_size=10)


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """18 pictures of 64 pixels with a box each, but for the last."""
    file = make_manifest(tmp_path_factory.mktemp("boxed"), classes=9, size=64, group=False, split=False)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row |= dict(zip(("x", "y", "width", "height"), map(str, BOX), strict=True))
    rows[-1] |= dict.fromkeys(("x", "y", "width", "height"), "")
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return load_dataset(Data(name="manifest", root=str(file)))


def opened(part: Pictures, position: int, cut: bool = False) -> Image.Image:
    picture = Image.open(part.file(position)).convert("RGB")
    x, y, width, height = BOX
    return picture.crop((x, y, x + width, y + height)) if cut and position < len(part) - 1 else picture


def reduced(view: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    small = Image.fromarray(view).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(view.shape[:2], Image.Resampling.BILINEAR))


def rows(images: Tensor | None) -> list[np.ndarray[Any, Any]]:
    assert images is not None
    return [np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for image in images]


def epoch(part: Pictures, data: Data, **options: Any) -> list[Batch]:
    given = {"student_resolution": 24, "teacher_resolution": 24, "epoch": 0, "seed": 0, "views": Views(per_image=2), **options}
    return list(training_batches(part, given.pop("views"), Batches(size=6), qualities=data.qualities, **given))


def test_who_sees_what() -> None:
    assert Data().qualities == (CLEAN, CLEAN)
    assert Data(degradation="low_resolution").qualities == (Quality(50, False), CLEAN)
    assert Data(use_boxes="teacher").qualities == (CLEAN, Quality(0, True))
    assert Data(use_boxes="all", degradation="low_resolution").qualities == (Quality(50, True), Quality(0, True))
    assert Data(degraded_size=10).qualities == (CLEAN, CLEAN)


def test_a_degraded_view_is_reduced_and_enlarged() -> None:
    view = np.asarray(sign_picture(3, 56))
    poor = degrade(view, 10)
    np.testing.assert_array_equal(poor, reduced(view, 10))
    # The brightness is about that of the view (its edge weighs less), its detail is gone.
    assert abs(float(poor.mean()) - float(view.mean())) < 6
    assert np.abs(np.diff(poor.astype(int), axis=0)).max() < np.abs(np.diff(view.astype(int), axis=0)).max() / 2


@pytest.mark.parametrize("augmentation", ["crop_flip_jitter", "none"])
def test_the_student_sees_the_teachers_view_degraded(boxed: Pictures, augmentation: str) -> None:
    views = Views(per_image=2, augmentation=augmentation)
    for poor, clean in zip(epoch(boxed, LOW, views=views), epoch(boxed, Data(), views=views), strict=True):
        assert poor.teacher is not None
        assert torch.equal(poor.teacher, clean.student)
        for student, teacher in zip(rows(poor.student), rows(poor.teacher), strict=True):
            np.testing.assert_array_equal(student, reduced(teacher, 10))


def test_degraded_processes_change_no_bit(boxed: Pictures) -> None:
    data, views = replace(LOW, use_boxes="teacher"), Views(mixup=0.3)
    for here, there in zip(epoch(boxed, data, views=views), epoch(boxed, data, views=views, workers=2), strict=True):
        assert torch.equal(here.student, there.student)
        assert here.teacher is not None
        assert there.teacher is not None
        assert torch.equal(here.teacher, there.teacher)


@pytest.mark.parametrize("use_boxes", ["none", "all", "teacher"])
def test_boxes_are_cut_before_the_one_draw_is_applied(boxed: Pictures, use_boxes: str) -> None:
    views = Views(per_image=2)
    for number, batch in enumerate(epoch(boxed, Data(use_boxes=use_boxes), views=views)):
        for row, (student, teacher) in enumerate(zip(rows(batch.student), rows(batch.teacher), strict=True)):
            drawn = draw_view(views, generator(0, 0, VIEW, number * 6 + row // 2, row % 2))
            assert drawn is not None
            position = int(batch.index[row])
            for seen, cut in ((student, use_boxes == "all"), (teacher, use_boxes != "none")):
                np.testing.assert_array_equal(seen, apply_view(np.asarray(opened(boxed, position, cut)), drawn, 24))


def test_test_pictures_are_of_the_sides_quality(boxed: Pictures) -> None:
    options = {"crop_ratio": 0.9, "batch_size": 7}
    for quality in (CLEAN, Quality(10, False), Quality(0, True), Quality(10, True)):
        made = torch.cat(list(batches.test_batches(boxed, 32, quality=quality, **options)))  # type: ignore[arg-type]
        for position, seen in enumerate(rows(made)):
            view = centre_view(opened(boxed, position, quality.boxes), 32, 0.9)
            np.testing.assert_array_equal(seen, reduced(view, 10) if quality.degraded_size else view)


def test_a_degradation_that_takes_nothing_away_is_refused(boxed: Pictures) -> None:
    with pytest.raises(ConfigError, match=r"data.degraded_size: found 50, wanted less than the 24 pixels"):
        epoch(boxed, Data(degradation="low_resolution"))
    with pytest.raises(ConfigError, match=r"found 32, wanted less than the 32 pixels .*student.resolution"):
        next(batches.test_batches(boxed, 32, crop_ratio=1, batch_size=2, quality=Quality(32, False)))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((2, 3, 4, 5), (2, 3, 6, 8)),
        ((10, 0, 100, 100), (10, 0, 20, 16)),
        ((19, 15, 1, 1), (19, 15, 20, 16)),
        ((0, 0, 0, 0), (0, 0, 20, 16)),
    ],
)
def test_a_box_is_cut_at_the_pictures_edge(box: tuple[int, ...], expected: tuple[int, ...]) -> None:
    picture = sign_picture(1, 20).crop((0, 0, 20, 16))
    np.testing.assert_array_equal(np.asarray(cut_to_box(picture, box, "a.png")), np.asarray(picture.crop(expected)))


@pytest.mark.parametrize("box", [(20, 0, 5, 5), (0, 16, 5, 5), (5, 90, 5, 5)])
def test_a_box_outside_its_picture_is_refused_by_name(box: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"a.png: its box .* outside the picture of 20 x 16 pixels"):
        cut_to_box(sign_picture(1, 20).crop((0, 0, 20, 16)), box, "a.png")


def test_boxes_follow_their_pictures_into_parts(boxed: Pictures) -> None:
    assert boxed.boxes is not None
    assert boxed.boxes.tolist() == [list(BOX)] * 17 + [[0, 0, 0, 0]]
    chosen = boxed.part([17, 3])
    assert chosen.boxes is not None
    assert chosen.boxes.tolist() == [[0, 0, 0, 0], list(BOX)]


def test_boxes_that_are_not_there_are_asked_for(boxed: Pictures) -> None:
    bare = replace(boxed, boxes=None)
    with pytest.raises(DataError, match=r"data.use_boxes=teacher, but .* names no boxes.*x, y, width, height"):
        split(bare, Data(use_boxes="teacher"))


def test_only_what_a_test_sees_makes_another_protocol(boxed: Pictures) -> None:
    """Table 6's student that never saw a box and the one whose teacher did stand in one table."""
    data = Data(validation=0.5)
    parts = split(boxed, data)
    assert parts.quality(data) == parts.quality(data, "teacher") == ""
    assert parts.quality(replace(data, use_boxes="teacher")) == ""
    assert parts.quality(replace(data, degraded_size=9)) == ""
    seen = [
        parts.quality(replace(LOW, validation=0.5)),
        parts.quality(replace(LOW, degraded_size=12)),
        parts.quality(LOW, "teacher"),
        parts.quality(replace(data, use_boxes="all")),
        parts.quality(replace(data, use_boxes="teacher"), "teacher"),
    ]
    assert len(set(seen)) == len(seen)
    assert boxed.boxes is not None
    moved = split(replace(boxed, boxes=boxed.boxes + 1), data)
    assert moved.fingerprint == parts.fingerprint
    assert moved.quality(replace(data, use_boxes="all")) != parts.quality(replace(data, use_boxes="all"))
    assert moved.quality(LOW) == parts.quality(LOW)
