"""Whole pictures with their longer side reduced, in test and in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmkd.data import Data, Quality
from dmkd.data.batches import Batches, training_batches
from dmkd.data.datasets import load_dataset
from dmkd.data.sized import SizedRows, sized_batches
from dmkd.data.splits import split
from dmkd.data.views import Views, max_side_view
from dmkd.errors import ConfigError
from tests.landmarks import SHAPES, landmark, make_landmark_test, make_sfm120k, signs


@pytest.mark.parametrize("shape", SHAPES)
def test_the_longer_side_is_reduced_never_enlarged_by_lanczos(shape: tuple[int, int]) -> None:
    picture = landmark(signs(1)[0], 0, shape)
    for size in (32, 41, 1024):
        view = max_side_view(picture, size)
        factor = min(1, size / max(shape))
        assert max(view.shape[:2]) == min(size, max(shape))
        np.testing.assert_allclose(view.shape[:2], (shape[1] * factor, shape[0] * factor), atol=0.51)
        wanted = picture.resize((view.shape[1], view.shape[0]), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(view, np.asarray(wanted))


def test_a_cut_picture_is_reduced_by_the_factor_of_the_whole_one(tmp_path: Path) -> None:
    root = make_landmark_test(tmp_path, "roxford5k")
    pictures = load_dataset(Data(name="roxford5k", root=str(root)))
    rows = SizedRows(pictures, 75, Quality(boxes=True))  # the whole picture has 150 x 100 pixels: by half
    with Image.open(pictures.file(16)) as picture:
        cut = picture.convert("RGB").crop((54.6, 19.7, 96.2, 60.4))
    assert cut.size == (41, 40)
    wanted = cut.resize((20, 20), Image.Resampling.LANCZOS)
    got = rows.view(16)
    assert got.shape == (3, 20, 20)
    torch.testing.assert_close(got, torch.from_numpy(np.asarray(wanted).copy()).permute(2, 0, 1) / 255)
    assert SizedRows(pictures, 75).view(16).shape == (3, 50, 75)
    assert SizedRows(pictures, 75, Quality(degraded_size=8)).view(16).shape == (3, 50, 75)


def test_batches_hold_every_picture_in_order_whatever_the_workers(tmp_path: Path) -> None:
    part = split(load_dataset(Data(name="sfm120k", root=str(make_sfm120k(tmp_path)))), Data()).train
    rows = SizedRows(part, 48)
    batches = list(sized_batches(part, 48, batch_size=4, positions=[5, 0, 3, 2, 7, 1]))
    assert [len(batch) for batch in batches] == [4, 2]
    for view, position in zip([view for batch in batches for view in batch], [5, 0, 3, 2, 7, 1], strict=True):
        assert torch.equal(view, rows.view(position))
    with pytest.raises(ConfigError, match="wanted less than the 48 pixels"):
        list(sized_batches(part, 48, batch_size=4, quality=Quality(degraded_size=50)))
    views, drawn = Views(augmentation="none", teacher=False), Batches(kind="tuples", size=3, columns=2)
    tuples = torch.tensor([[0, 1, 5], [3, 4, 8], [6, 7, 2]])
    wanted = {"student_resolution": 48, "teacher_resolution": None, "epoch": 0, "seed": 1, "tuples": tuples}
    (batch,) = training_batches(part, views, drawn, **wanted, transform="max_side")  # type: ignore[arg-type]
    assert batch.sizes is not None
    for row, (height, width), position in zip(batch.student, batch.sizes.tolist(), batch.index.tolist(), strict=True):
        assert torch.equal(row[:, :height, :width], rows.view(position))
        assert not row[:, height:].any()
        assert not row[:, :, width:].any()
    assert len(set(map(tuple, batch.sizes.tolist()))) > 1
    (again,) = training_batches(part, views, drawn, **wanted, transform="max_side", workers=1)  # type: ignore[arg-type]
    assert torch.equal(again.student, batch.student)
    moved = batch.to(torch.device("cpu"))
    assert moved.sizes is not None
    assert torch.equal(moved.sizes, batch.sizes)
    # Augmented views are square crops under either transform.
    crops = replace(views, augmentation="crop_flip")
    (square,) = training_batches(part, crops, drawn, **wanted, transform="max_side")  # type: ignore[arg-type]
    assert (square.sizes, square.student.shape) == (None, (6, 3, 48, 48))
