"""Crops and colours made for a batch at once, against Pillow's, picture by picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as F

from dmkd.data import device_views
from dmkd.data.device_jitter import Colours, turn_hue
from dmkd.data.device_views import Crops, chunks, degraded, resize_crops
from dmkd.data.views import Draw, Jitter, Pixels, Views, apply_jitter, apply_view, crop_box, degrade, draw_view, generator
from tests.pictures import sign_picture


def draws(count: int, augmentation: str = "crop_flip", seed: int = 0) -> list[Draw]:
    made = [draw_view(Views(augmentation=augmentation), generator(seed, place)) for place in range(count)]
    return [draw for draw in made if draw is not None]


def mixed_pictures() -> list[Pixels]:
    """Signs of many shapes, and noise, whose neighbouring pixels have nothing in common."""
    signs = [np.asarray(sign_picture(number, 90).resize((90 + 13 * number, 140 - 7 * number))) for number in range(8)]
    rng = np.random.default_rng(0)
    return signs + [rng.integers(0, 256, (9 + 31 * number, 200 - 20 * number, 3), dtype=np.uint8) for number in range(8)]


def flat(pictures: Sequence[Pixels]) -> tuple[torch.Tensor, np.ndarray]:
    """The pictures in one buffer, what lies around them as far from them as can be, and where each begins."""
    margin = np.full(3 * max(picture.shape[1] for picture in pictures), 255, np.uint8)
    starts = np.cumsum([0, *(picture.nbytes for picture in pictures)])[:-1]
    return torch.from_numpy(np.concatenate([*(picture.reshape(-1) for picture in pictures), margin])), starts


def crops(pictures: Sequence[Pixels], drawn: Sequence[Draw]) -> tuple[torch.Tensor, Crops]:
    buffer, starts = flat(pictures)
    boxes = [crop_box(d.tries, p.shape[1], p.shape[0], d.min_scale) for d, p in zip(drawn, pictures, strict=True)]
    left, top, width, height = np.array(boxes).T
    stride = np.array([3 * picture.shape[1] for picture in pictures])
    return buffer, Crops(starts + top * stride + 3 * left, stride, height, width, np.array([draw.flip for draw in drawn]))


def made(pictures: Sequence[Pixels], drawn: Sequence[Draw], size: int) -> np.ndarray:
    """[R, size, size, 3] as bytes would be."""
    buffer, boxes = crops(pictures, drawn)
    numbers = boxes.numbers()
    return resize_crops(buffer, numbers, torch.from_numpy(numbers), size).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [8, 24, 96, 224])
def test_crops_are_pillows_and_those_of_the_host_to_one_step(size: int) -> None:
    pictures, drawn = mixed_pictures(), draws(16, seed=size)
    views = made(pictures, drawn, size)
    assert views.dtype == np.float32
    assert np.array_equal(views, np.rint(views))
    for form in (Image.fromarray, np.asarray):
        expected = np.stack([apply_view(form(picture), draw, size) for picture, draw in zip(pictures, drawn, strict=True)])
        far = np.abs(views - expected)
        assert far.max() <= 1
        assert far.mean() < 0.2
        assert abs((views - expected).mean()) < 0.05, "no side is brighter"


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(1, 40))
def test_any_crop_is_torchs_antialiased_resize_of_it(data: st.DataObject, size: int) -> None:
    sides = st.integers(1, 70)
    count = data.draw(st.integers(1, 4))
    shapes = [(data.draw(sides), data.draw(sides)) for _ in range(count)]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    drawn = draws(count, seed=data.draw(st.integers(0, 2**32)))
    views = made(pictures, drawn, size)
    for view, picture, draw in zip(views, pictures, drawn, strict=True):
        left, top, width, height = crop_box(draw.tries, picture.shape[1], picture.shape[0], draw.min_scale)
        floats = torch.from_numpy(picture).permute(2, 0, 1).double()
        expected = F.resized_crop(floats, top, left, height, width, [size, size], antialias=True).permute(1, 2, 0)
        expected = expected.flip(1) if draw.flip else expected
        assert np.abs(view - expected.numpy()).max() <= 0.5 + 1e-2


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(40, 250),
    height=st.integers(40, 250),
    seed=st.integers(0, 10**6),
    small=st.integers(16, 60),
    large=st.integers(61, 160),
)
def test_both_sizes_show_the_same_crop(width: int, height: int, seed: int, small: int, large: int) -> None:
    """A picture whose red is the column and whose green is the row tells where a view was cut, and whether it was flipped."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    picture, drawn = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8), draws(1, seed=seed)
    left, top, across, down = crop_box(drawn[0].tries, width, height, drawn[0].min_scale)
    for size in (small, large):
        view = made([picture], drawn, size)[0]
        columns, rows = view[..., 0].mean(0), view[..., 1].mean(1)
        ends = (columns[-1], columns[0]) if drawn[0].flip else (columns[0], columns[-1])
        # The outermost values are means over a filter of that reach.
        reach = [0.51 + max(1.0, side / size) for side in (across, down)]
        assert ends == pytest.approx((left, left + across - 1), abs=reach[0])
        assert (rows[0], rows[-1]) == pytest.approx((top, top + down - 1), abs=reach[1])


def test_rows_come_out_in_their_order_however_they_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, drawn = mixed_pictures(), draws(16)
    whole = made(pictures, drawn, 24)
    for limit in (1, 30_000, 100_000):
        monkeypatch.setattr(device_views, "LIMIT", limit)
        numbers = crops(pictures, drawn)[1].numbers()
        runs = list(chunks(numbers))
        assert [start for start, *_ in runs] == [0, *(stop for _, stop, *_ in runs[:-1])]
        assert runs[-1][1] == 16
        for start, stop, height, width in runs:
            assert (height, width) == tuple(numbers[start:stop, 2:4].max(0))
            assert stop - start == 1 or 3 * height * width * (stop - start) <= limit
        assert np.abs(made(pictures, drawn, 24) - whole).max() <= 1


def test_a_place_beyond_four_gigabytes_stays_exact() -> None:
    far = np.array([2**40 + 3])
    numbers = Crops(far, far, far, far, np.array([True])).numbers()
    assert numbers[0].astype(np.int64).tolist() == [*[2**40 + 3] * 4, 1, 0]


@pytest.mark.parametrize("size", [5, 16, 39])
def test_degraded_views_are_pillows_to_two_steps(size: int) -> None:
    pictures = np.stack([np.asarray(sign_picture(number, 40)) for number in range(6)])
    found = degraded(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), size).permute(0, 2, 3, 1).numpy()
    far = np.abs(found - np.stack([degrade(picture, size) for picture in pictures]))
    assert far.max() <= 2
    assert far.mean() < 0.25


def jittered(views: np.ndarray, jitters: Sequence[Jitter]) -> np.ndarray:
    colours = Colours(jitters)
    images = torch.from_numpy(views).permute(0, 3, 1, 2).float()
    return colours.apply(images, torch.from_numpy(colours.numbers)).permute(0, 2, 3, 1).numpy()


def test_jitter_is_pillows_but_for_one_value_in_hundreds() -> None:
    jitters = [draw.jitter for draw in draws(48, "crop_flip_jitter") if draw.jitter]
    assert {jitter.order.index(3) for jitter in jitters} == {0, 1, 2, 3}
    rng = np.random.default_rng(1)
    views = [np.asarray(sign_picture(number, 32)) for number in range(24)]
    views += [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(24)]
    found = jittered(np.stack(views), jitters)
    expected = np.stack([apply_jitter(Image.fromarray(v), j) for v, j in zip(views, jitters, strict=True)]).astype(float)
    assert np.array_equal(found, np.rint(found))
    far = np.abs(found - expected)
    assert (far > 0).mean() < 0.01
    assert far.mean() < 0.01
    assert far.max() <= 10


def test_jitter_after_a_crop_stays_close_to_that_of_the_host() -> None:
    pictures, drawn = mixed_pictures()[:8], draws(8, "crop_flip_jitter")
    found = jittered(made(pictures, [dataclasses.replace(draw, jitter=None) for draw in drawn], 64), [d.jitter for d in drawn])  # type: ignore[misc]
    expected = np.stack([apply_view(picture, draw, 64) for picture, draw in zip(pictures, drawn, strict=True)])
    far = np.abs(found - expected)
    assert far.mean() < 0.25
    assert np.quantile(far, 0.999) <= 8


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.05, 0.3])
def test_every_hue_is_turned_as_torchvision_turns_it(turns: float) -> None:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, len(levels), -1, 3)
    expected = np.asarray(F.adjust_hue(Image.fromarray(cube[0]), turns))
    steps = torch.tensor([float(int(turns * 255))])
    found = turn_hue(torch.from_numpy(cube).permute(0, 3, 1, 2).float(), steps)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 6
    assert (found != expected).mean() < 0.01


def test_grey_and_black_have_no_hue_to_turn() -> None:
    grey = torch.arange(0.0, 256.0).repeat(1, 3, 1, 1)
    assert torch.equal(turn_hue(grey, torch.tensor([25.0])), grey)
