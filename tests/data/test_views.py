"""Views against torchvision's transforms, and the coupling of both resolutions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

from dmkd.data.views import (
    HUE,
    JITTER,
    Draw,
    Jitter,
    Views,
    apply_jitter,
    apply_view,
    centre_view,
    crop_box,
    draw_partner,
    draw_view,
    generator,
    to_unit,
)
from tests.pictures import sign_picture


def draw(seed: int, augmentation: str = "crop_flip", min_scale: float = 0.08) -> Draw:
    made = draw_view(Views(augmentation=augmentation, min_scale=min_scale), generator(seed))
    assert made is not None
    return made


@pytest.mark.parametrize("seed", range(8))
def test_a_view_is_torchvisions_resized_crop_and_flip(seed: int) -> None:
    picture, numbers = sign_picture(seed, 120).crop((0, 10, 120, 100)), draw(seed)
    left, top, width, height = crop_box(numbers.tries, *picture.size, numbers.min_scale)
    expected = F.resized_crop(picture, top, left, height, width, [48, 48], InterpolationMode.BILINEAR, antialias=True)
    expected = F.hflip(expected) if numbers.flip else expected
    np.testing.assert_array_equal(apply_view(picture, numbers, 48), np.asarray(expected))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("augmentation", ["crop_flip", "crop_flip_jitter"])
def test_a_view_of_pixels_is_that_of_the_picture_to_one_step(seed: int, augmentation: str) -> None:
    picture, numbers = sign_picture(seed, 120).crop((0, 10, 120, 100)), draw(seed, augmentation)
    pixels, plain = np.asarray(picture), dataclasses.replace(numbers, jitter=None)
    view = apply_view(pixels, plain, 48)
    left, top, width, height = crop_box(numbers.tries, *picture.size, numbers.min_scale)
    bytes_ = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    of_tensors = F.resized_crop(bytes_, top, left, height, width, [48, 48], InterpolationMode.BILINEAR, antialias=True)
    of_tensors = (F.hflip(of_tensors) if numbers.flip else of_tensors).permute(1, 2, 0).numpy()
    for expected in (of_tensors, apply_view(picture, plain, 48)):
        far = np.abs(view.astype(int) - expected)
        assert far.max() <= 1
        assert (far > 0).mean() < 0.2
    if numbers.jitter:
        jittered = np.asarray(apply_jitter(Image.fromarray(view), numbers.jitter))
        np.testing.assert_array_equal(apply_view(pixels, numbers, 48), jittered)


@pytest.mark.parametrize("min_scale", [0.08, 0.5])
@pytest.mark.parametrize("size", [(96, 96), (160, 90), (40, 200)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int], min_scale: float) -> None:
    torch.manual_seed(0)
    picture = Image.new("RGB", size)
    theirs = np.array([RandomResizedCrop.get_params(picture, [min_scale, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    boxes = [crop_box(draw(seed, min_scale=min_scale).tries, *size, min_scale) for seed in range(3000)]
    ours = np.array([(top, left, height, width) for left, top, width, height in boxes])
    for column in range(4):
        assert ks_2samp(theirs[:, column], ours[:, column]).pvalue > 1e-3
    area = [(rows[:, 2] * rows[:, 3]).mean() for rows in (theirs, ours)]
    assert area[1] == pytest.approx(area[0], rel=0.03)


@pytest.mark.parametrize("size", [(1000, 9), (9, 1000), (5, 1)])
def test_pictures_that_no_crop_fits_give_torchvisions_centre(size: tuple[int, int]) -> None:
    top, left, height, width = RandomResizedCrop.get_params(Image.new("RGB", size), [0.9, 1.0], [3 / 4, 4 / 3])
    assert crop_box(draw(0).tries, *size, 0.9) == (left, top, width, height)


def test_flips_are_fair() -> None:
    assert np.mean([draw(seed).flip for seed in range(2000)]) == pytest.approx(0.5, abs=0.04)


@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**32), min_scale=st.floats(0.01, 1.0))
def test_every_crop_lies_inside_its_picture(width: int, height: int, seed: int, min_scale: float) -> None:
    left, top, w, h = crop_box(draw(seed).tries, width, height, min_scale)
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w > 0
    assert h > 0


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red is the column and whose green is the row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


@settings(max_examples=60, deadline=None)
@given(width=st.integers(60, 250), height=st.integers(60, 250), seed=st.integers(0, 10**6), half=st.sampled_from([24, 40, 56]))
def test_both_sizes_show_the_same_crop(width: int, height: int, seed: int, half: int) -> None:
    picture, numbers = coordinates(width, height), draw(seed)
    small, large = (apply_view(picture, numbers, size).astype(float) for size in (half, 2 * half))
    pooled = large.reshape(half, 2, half, 2, 3).mean((1, 3))
    # The filters differ at the border and in rounding; another crop, or an unequal flip, would differ by tens.
    assert np.abs(pooled - small).max() < 1.5 + 1.5 * max(width, height) / (2 * half)
    assert np.abs(pooled - small).mean() < 0.7


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(32, 250),
    height=st.integers(32, 250),
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(16, 80), st.integers(16, 160)),
)
def test_the_crop_box_that_is_resized_is_one_at_both_sizes(width: int, height: int, seed: int, sizes: tuple[int, int]) -> None:
    """Read off what Pillow was asked for, not off pixels: box and flip are those of `crop_box`, whatever the output's size."""
    boxes = []

    class Watched(Image.Image):
        def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
            boxes.append(box)
            return super().crop(box)

    picture, numbers = coordinates(width, height), draw(seed)
    picture.__class__ = Watched
    shown = [apply_view(picture, numbers, size) for size in sizes]
    left, top, w, h = crop_box(numbers.tries, width, height, numbers.min_scale)
    assert boxes == [(left, top, left + w, top + h)] * 2
    for view in shown:
        columns = view[..., 0].astype(float).mean(0)
        assert (columns[0] > columns[-1]) == (numbers.flip and w > 1) or abs(columns[0] - columns[-1]) < 1


@pytest.mark.parametrize("seed", range(6))
def test_jitter_is_torchvisions(seed: int) -> None:
    jitter = draw(seed, "crop_flip_jitter").jitter
    assert jitter is not None
    steps = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    factors = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue]
    expected = sign_picture(seed)
    for step in jitter.order:
        expected = steps[step](expected, factors[step])
    np.testing.assert_array_equal(np.asarray(apply_jitter(sign_picture(seed), jitter)), np.asarray(expected))


def test_jitter_is_drawn_from_its_ranges_in_every_order() -> None:
    jitters = [jitter for seed in range(600) if (jitter := draw(seed, "crop_flip_jitter").jitter)]
    factors = np.array([[jitter.brightness, jitter.contrast, jitter.saturation] for jitter in jitters])
    hues = np.array([jitter.hue for jitter in jitters])
    assert factors.min() >= 1 - JITTER
    assert factors.max() <= 1 + JITTER
    assert np.abs(factors.mean(0) - 1).max() < 0.03
    assert HUE * 0.95 < np.abs(hues).max() <= HUE
    assert len({jitter.order for jitter in jitters}) == 24


def test_neutral_jitter_changes_nothing_but_the_rounding_of_hsv() -> None:
    picture = sign_picture(5)
    changed = apply_jitter(picture, Jitter(1.0, 1.0, 1.0, 0.0, (0, 1, 2, 3)))
    assert np.abs(np.asarray(changed).astype(int) - np.asarray(picture)).max() <= 5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "ratio", "short"), [(64, 0.875, 73), (224, 0.875, 256), (48, 1.0, 48)])
def test_test_transform_is_resize_and_centre_crop(interpolation: str, size: int, ratio: float, short: int) -> None:
    for box in ((0, 0, 128, 128), (0, 17, 128, 100), (31, 0, 90, 127)):
        picture = sign_picture(7, 128).crop(box)
        expected = Compose([Resize(short, InterpolationMode(interpolation)), CenterCrop(size)])(picture)
        np.testing.assert_array_equal(centre_view(picture, size, ratio, interpolation), np.asarray(expected))


def test_draws_are_functions_of_their_key() -> None:
    assert (draw(5).tries == draw(5).tries).all()
    assert (draw(5).tries != draw(6).tries).all()
    keys = [(seed, epoch, place) for seed in range(3) for epoch in range(3) for place in range(3)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_partners_are_uniform_and_weights_are_beta() -> None:
    pairs = [draw_partner(Views(mixup=0.2), 10, generator(seed)) for seed in range(4000)]
    counts = np.bincount([partner for partner, _ in pairs], minlength=10)
    assert np.abs(counts / 400 - 1).max() < 0.2
    theirs = np.random.default_rng(0).beta(0.2, 0.2, 4000)
    assert ks_2samp([weight for _, weight in pairs], theirs).pvalue > 1e-3


def test_no_augmentation_draws_nothing() -> None:
    assert draw_view(Views(augmentation="none"), generator(0)) is None


def test_to_unit_is_channels_first_between_0_and_1() -> None:
    view = apply_view(sign_picture(2), draw(0), 32)
    made = to_unit([view, view])
    assert made.shape == (2, 3, 32, 32)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[1], F.to_tensor(Image.fromarray(view)).numpy())


@pytest.mark.parametrize("flip", [False, True])
def test_a_view_of_pixels_lies_in_memory_as_a_batch_wants_it(flip: bool) -> None:
    """Rows of bytes one after the other, so that nothing has to be gathered; a flipped view is the other one reversed."""
    pixels, numbers = np.asarray(sign_picture(3, 120)), dataclasses.replace(draw(3), jitter=None, flip=flip)
    view = apply_view(pixels, numbers, 48)
    assert view.flags.c_contiguous
    other = apply_view(pixels, dataclasses.replace(numbers, flip=not flip), 48)
    np.testing.assert_array_equal(view, other[:, ::-1])
