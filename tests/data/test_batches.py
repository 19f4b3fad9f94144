"""Batches of real pictures: what a row is, the coupling of both sizes, and that processes change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from dmkd.data import Data, Quality, batches
from dmkd.data.batches import Batch, Batches, iterations_per_epoch, training_batches
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.rows import MIXUP, TEACHER_MIXUP, VIEW
from dmkd.data.views import Views, apply_view, draw_partner, draw_view, generator
from dmkd.errors import ConfigError, DataError
from tests.pictures import make_folder
from tests.waits import Waits, pretended_gpu

CLASSES = Batches(size=6)
ONE_VIEW = Views()


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return load_dataset(Data(root=str(make_folder(tmp_path_factory.mktemp("signs"), classes=9, size=64, wide=8))))


def epoch(part: Pictures, views: Views = ONE_VIEW, composition: Batches = CLASSES, **options: Any) -> list[Batch]:
    given = {"student_resolution": 24, "teacher_resolution": 48, "epoch": 0, "seed": 0, **options}
    return list(training_batches(part, views, composition, **given))


def opened(part: Pictures, position: int) -> np.ndarray:
    return np.asarray(Image.open(part.file(position)).convert("RGB"))


def equal(first: Batch, second: Batch) -> bool:
    pairs = [(getattr(first, name), getattr(second, name)) for name in vars(first)]
    return all(one is other is None or torch.equal(one, other) for one, other in pairs)


def test_shapes_types_and_length(signs: Pictures) -> None:
    made = epoch(signs, Views(per_image=3))
    assert len(made) == iterations_per_epoch(signs, CLASSES) == 3
    for batch in made:
        assert batch.student.shape == (18, 3, 24, 24)
        assert batch.teacher is not None
        assert batch.teacher.shape == (18, 3, 48, 48)
        assert batch.student.dtype == torch.float32
        assert 0 <= batch.student.min() < batch.student.max() <= 1
        assert batch.view.tolist() == [0, 1, 2] * 6
        assert batch.index.reshape(6, 3).unique(dim=1).shape == (6, 1)
        assert batch.labels.tolist() == signs.labels[batch.index].tolist()
        assert (batch.role == 0).all()
        assert batch.tuples is None
        assert {batch.labels.dtype, batch.index.dtype, batch.view.dtype, batch.role.dtype} == {torch.int64}


def test_every_row_is_its_picture_under_its_own_draw(signs: Pictures) -> None:
    views = Views(per_image=2, augmentation="crop_flip_jitter")
    for number, batch in enumerate(epoch(signs, views, epoch=4, seed=7)):
        for row in range(12):
            place = number * 6 + row // 2
            drawn = draw_view(views, generator(7, 4, VIEW, place, row % 2))
            assert drawn is not None
            expected = apply_view(opened(signs, int(batch.index[row])), drawn, 24)
            np.testing.assert_array_equal(
                batch.student[row].numpy(), expected.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            )


def test_both_sizes_show_one_crop_unless_uncoupled(signs: Pictures) -> None:
    def apart(coupled: bool) -> float:
        made = epoch(signs, Views(per_image=2, coupled=coupled), teacher_resolution=96)
        pairs = [(batch.student, avg_pool2d(batch.teacher, 4)) for batch in made if batch.teacher is not None]
        return float(torch.stack([(student - teacher).abs().mean() for student, teacher in pairs]).mean())

    assert apart(True) < 0.02
    assert apart(False) > 0.1


def test_one_size_is_one_tensor_and_no_teacher_is_none(signs: Pictures) -> None:
    assert all(batch.teacher is batch.student for batch in epoch(signs, teacher_resolution=24))
    assert all(batch.teacher is not batch.student for batch in epoch(signs, Views(coupled=False), teacher_resolution=24))
    assert all(batch.teacher is None for batch in epoch(signs, teacher_resolution=None))
    assert all(batch.teacher is None for batch in epoch(signs, Views(teacher=False)))


def test_views_epochs_and_seeds_differ(signs: Pictures) -> None:
    first = epoch(signs, Views(per_image=2))[0]
    assert not torch.equal(first.student[0], first.student[1])
    for change in ({"epoch": 1}, {"seed": 1}):
        assert not equal(first, epoch(signs, Views(per_image=2), **change)[0])
    assert equal(first, epoch(signs, Views(per_image=2))[0])


@pytest.mark.parametrize("views", [Views(), Views(per_image=2, mixup=0.2, augmentation="crop_flip_jitter", coupled=False)])
def test_processes_change_no_bit_and_leave_the_global_generators_alone(signs: Pictures, views: Views) -> None:
    torch.manual_seed(3)
    state, theirs = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    here, there = epoch(signs, views), epoch(signs, views, workers=2)
    assert len(here) == len(there)
    assert all(equal(one, other) for one, other in zip(here, there, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == theirs  # noqa: NPY002


def test_mixup_is_a_weighted_sum_with_one_partner_at_both_sizes(signs: Pictures) -> None:
    views = Views(mixup=0.4, per_image=2)
    batch = epoch(signs, views)[0]
    assert batch.teacher is not None
    for row in range(12):
        drawn = draw_view(views, generator(0, 0, VIEW, row // 2, row % 2))
        partner, weight = draw_partner(views, len(signs), generator(0, 0, MIXUP, row // 2, row % 2))
        assert drawn is not None
        for images, size in ((batch.student, 24), (batch.teacher, 48)):
            own, other = (apply_view(opened(signs, position), drawn, size) / 255 for position in (int(batch.index[row]), partner))
            expected = weight * own + (1 - weight) * other
            np.testing.assert_allclose(images[row].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert batch.labels.tolist() == signs.labels[batch.index].tolist()


@pytest.mark.parametrize("coupled", [True, False])
def test_mixup_with_the_batchs_next_picture(signs: Pictures, coupled: bool) -> None:
    """View a of image b is mixed with view a of image b + 1 as it is, the last image's with the first's; at both sizes, with
    the same weight unless uncoupled."""
    views = Views(mixup=0.4, mixup_partner="next", per_image=2, coupled=coupled)
    plain = epoch(signs, replace(views, mixup=0.0), teacher_resolution=36)
    streams = (MIXUP, MIXUP if coupled else TEACHER_MIXUP)
    for number, (batch, own) in enumerate(zip(epoch(signs, views, teacher_resolution=36), plain, strict=True)):
        for stream, mixed, images in zip(streams, (batch.student, batch.teacher), (own.student, own.teacher), strict=True):
            assert mixed is not None
            assert images is not None
            for row in range(12):
                _, weight = draw_partner(views, len(signs), generator(0, 0, stream, number * 6 + row // 2, row % 2))
                expected = weight * images[row] + (1 - weight) * images[(row + 2) % 12]
                torch.testing.assert_close(mixed[row], expected, rtol=0, atol=1e-6)


def test_no_augmentation_is_the_test_transform(signs: Pictures) -> None:
    batch = epoch(signs, Views(augmentation="none"), crop_ratio=0.8)[0]
    ordered = torch.cat(list(batches.test_batches(signs, 24, crop_ratio=0.8, batch_size=7)))
    assert torch.equal(batch.student, ordered[batch.index])


def test_test_batches_are_torchvisions_transform_in_order(signs: Pictures) -> None:
    theirs = Compose([Resize(round(32 / 0.875)), CenterCrop(32), ToTensor()])
    expected = torch.stack([theirs(Image.fromarray(opened(signs, position))) for position in range(len(signs))])
    made = list(batches.test_batches(signs, 32, crop_ratio=0.875, batch_size=7))
    assert [len(images) for images in made] == [7, 7, 4]
    assert torch.equal(torch.cat(made), expected)
    chosen = torch.tensor([5, 2, 2, 17])
    some = list(batches.test_batches(signs, 32, crop_ratio=0.875, batch_size=3, workers=2, positions=chosen))
    assert torch.equal(torch.cat(some), expected[chosen])
    raw = torch.cat(list(batches.test_batches(signs, 32, crop_ratio=0.875, batch_size=7, raw=True)))
    assert raw.dtype == torch.uint8
    assert torch.equal(raw.float().div(255), expected)


def test_tuples(signs: Pictures) -> None:
    rows = torch.tensor([[0, 1, 4, 6], [2, 3, 8, 10], [4, 5, 0, 2], [6, 7, 1, 3], [8, 9, 2, 4]])
    made = epoch(signs, Views(per_image=2), Batches(kind="tuples", size=2, columns=3, drop_last=False), tuples=rows)
    assert [batch.student.shape[0] for batch in made] == [12, 12, 6]
    assert sorted(torch.cat([batch.tuples for batch in made if batch.tuples is not None])[:, 0].tolist()) == [0, 2, 4, 6, 8]
    for batch in made:
        assert batch.tuples is not None
        assert batch.index.tolist() == batch.tuples[:, :3].repeat_interleave(2, dim=1).flatten().tolist()
        assert batch.role.tolist() == [0, 0, 1, 1, 2, 2] * len(batch.tuples)
        assert batch.view.tolist() == [0, 1] * 3 * len(batch.tuples)


def test_tuples_of_anchors_alone_and_of_all_columns(signs: Pictures) -> None:
    rows = torch.tensor([[0, 1, 4], [2, 3, 8]])
    for columns, drawn in ((1, 1), (0, 3)):
        batch = epoch(signs, Views(), Batches(kind="tuples", size=2, columns=columns), tuples=rows)[0]
        assert len(batch.index) == 2 * drawn
    for wrong in (None, rows[0], rows[:, :1]):
        with pytest.raises(DataError, match="tuple batches: found tuples of shape"):
            epoch(signs, Views(), Batches(kind="tuples", size=2, columns=2), tuples=wrong)


def test_labels_can_be_replaced_and_withheld(signs: Pictures) -> None:
    noisy = torch.tensor([1, 1, 0, 0, *signs.labels[4:].tolist()])
    batch = torch.cat([made.labels - noisy[made.index] for made in epoch(signs, labels=noisy)])
    assert (batch == 0).all()
    plain = epoch(signs, composition=Batches(kind="plain", size=18), labels=torch.full((18,), -1))[0]
    assert (plain.labels == -1).all()


def test_views_may_be_cut_from_reduced_pictures(signs: Pictures) -> None:
    views, checked = Views(), 0
    for number, batch in enumerate(epoch(signs, views, short_side=60)):
        for row in range(6):
            drawn = draw_view(views, generator(0, 0, VIEW, number * 6 + row, 0))
            assert drawn is not None
            picture = Image.fromarray(opened(signs, int(batch.index[row])))
            sides = [round(side * 60 / min(picture.size)) for side in picture.size]
            small = np.asarray(picture.resize(sides, Image.Resampling.BILINEAR))
            expected = apply_view(small, drawn, 24).transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_array_equal(batch.student[row].numpy(), expected.astype(np.float32))
            checked += 1
    assert checked == 18
    with pytest.raises(ConfigError, match="found 40, wanted at least the 48 pixels of a view"):
        epoch(signs, views, short_side=40)
    with pytest.raises(ConfigError, match="use_boxes"):
        epoch(signs, views, short_side=60, qualities=(Quality(), Quality(boxes=True)))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_both_networks_see_is_pinned_and_sent_once(signs: Pictures, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning wants a GPU: a copy stands for it."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    for size, together in ((24, True), (48, False)):
        batch = epoch(signs, Views(per_image=2), teacher_resolution=size, raw=True, workers=workers)[0]
        pinned = batch.pin_memory()
        sent = pinned.to(torch.device("cpu"))
        for one in (batch, pinned, sent):
            assert (one.teacher is one.student) == together
        assert equal(sent, batch.to(torch.device("cpu")))
        assert pinned.student is not batch.student


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("channels_last", [True, False])
def test_raw_batches_are_bytes_that_become_the_same_numbers(signs: Pictures, workers: int, channels_last: bool) -> None:
    for views in (Views(), Views(mixup=0.3)):
        for raw, plain in zip(epoch(signs, views, raw=True, workers=workers), epoch(signs, views), strict=True):
            assert raw.student.dtype == (torch.float32 if views.mixup else torch.uint8)
            assert equal(raw.to(torch.device("cpu"), channels_last=channels_last), plain)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("channels_last", [False, True])
def test_no_layout_of_the_images_makes_the_host_wait(signs: Pictures, channels_last: bool, mixup: float) -> None:
    """They lie channels last, as pictures do; `optim.channels_last` may ask for either."""
    batch = epoch(signs, Views(mixup=mixup), raw=True)[0]
    with pretended_gpu() as gpu, Waits() as waits:
        there = batch.to(gpu, channels_last=channels_last)
    form = torch.channels_last if channels_last else torch.contiguous_format
    for images in (there.student, there.teacher):
        assert images is not None
        assert images.device.type == "cuda"
        assert images.is_contiguous(memory_format=form)
    assert len(waits) == 0, waits.found
