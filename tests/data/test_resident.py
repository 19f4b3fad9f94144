"""Pictures that live on the device: what is put there, what does not fit, and batches made there against those of the host."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmkd.data import CLEAN, Data, Quality, resident
from dmkd.data.batches import Batch, Batches, training_batches
from dmkd.data.cache import open_picture, reduced, shared_cache
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.resident import ResidentPictures, room, share_of_free
from dmkd.data.views import Views
from dmkd.errors import ConfigError, DataError
from tests.cards import declare_card
from tests.pictures import make_folder, sign_picture
from tests.waits import COPIES, Waits, in_error_mode, needs_gpu

CPU = torch.device("cpu")
VICTIM = "class_001/1-twemoji.png"
PLACE = 3
"""Of the victim in the listing."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("signs"), classes=9, size=64, wide=8)


@pytest.fixture(scope="module")
def part(root: Path) -> Pictures:
    return load_dataset(Data(root=str(root)))


@pytest.fixture(scope="module")
def held(part: Pictures) -> ResidentPictures:
    return on_device(part)


def on_device(part: Pictures, **options: Any) -> ResidentPictures:
    made = resident.resident(part, CPU, **options)
    assert made is not None
    return made


def epoch(part: Pictures, views: Views, pictures: ResidentPictures | None, **options: Any) -> list[Batch]:
    given: dict[str, Any] = {"student_resolution": 24, "teacher_resolution": 48, "epoch": 2, "seed": 5, **options}
    return list(training_batches(part, views, given.pop("composition", Batches(size=6)), pictures=pictures, **given))


def kept(held: ResidentPictures, position: int) -> np.ndarray:
    start, height, width = held.starts[position], held.heights[position], held.widths[position]
    return held.pixels[start : start + 3 * height * width].reshape(height, width, 3).numpy()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("short_side", [0, 40])
def test_every_picture_lies_there_as_it_is_decoded(tmp_path: Path, short_side: int, workers: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(70):
        file = tmp_path / f"class_{number // 5:02d}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + number, 90 - number, 3), dtype=np.uint8)).save(file)
    turned = sign_picture(1, 60).crop((0, 0, 60, 20)).getexif()
    turned[0x0112] = 6
    sign_picture(1, 60).crop((0, 0, 60, 20)).save(tmp_path / "class_03/15.png", exif=turned)
    pictures = load_dataset(Data(root=str(tmp_path)))
    held = on_device(pictures, short_side=short_side, workers=workers)
    for position in range(len(pictures)):
        expected = np.asarray(reduced(open_picture(pictures.file(position)), short_side))
        np.testing.assert_array_equal(kept(held, position), expected)
    spare = len(held.pixels) - int((3 * held.heights * held.widths).sum())
    assert spare >= 3 * held.widths.max()


CASES: dict[str, tuple[Views, dict[str, Any]]] = {
    "one view": (Views(), {}),
    "views of one size": (Views(per_image=2), {"teacher_resolution": 24}),
    "uncoupled": (Views(coupled=False), {}),
    "next": (Views(per_image=2, mixup=0.4, mixup_partner="next"), {}),
    "random": (Views(mixup=0.4), {"composition": Batches(kind="plain", size=5, drop_last=False)}),
    "random, uncoupled": (Views(mixup=0.4, coupled=False), {}),
    "degraded": (Views(), {"qualities": (Quality(degraded_size=12), CLEAN), "teacher_resolution": 24}),
    "no teacher": (Views(teacher=False), {}),
    "no teacher's size": (Views(), {"teacher_resolution": None}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_is_that_of_the_host_to_a_step_or_two(part: Pictures, held: ResidentPictures, case: str) -> None:
    views, options = CASES[case]
    host, device = epoch(part, views, None, **options), epoch(part, views, held, **options)
    assert len(host) == len(device) > 1
    for theirs, ours in zip(host, device, strict=True):
        for name in ("labels", "index", "view", "role"):
            assert torch.equal(getattr(theirs, name), getattr(ours, name))
        assert (ours.teacher is None) == (theirs.teacher is None)
        assert (ours.teacher is ours.student) == (theirs.teacher is theirs.student)
        for wanted, found in ((theirs.student, ours.student), (theirs.teacher, ours.teacher)):
            if wanted is not None and found is not None:
                assert found.dtype == torch.float32
                assert (255 * (found - wanted)).abs().max() <= (2.01 if case == "degraded" else 1.01)


def test_short_sides_and_whole_pictures_are_told_apart(part: Pictures) -> None:
    held = on_device(part, short_side=48)
    host, device = (epoch(part, Views(), pictures, short_side=48)[0].student for pictures in (None, held))
    assert (255 * (host - device)).abs().max() <= 1.01
    assert (255 * (epoch(part, Views(), None)[0].student - device)).abs().max() > 10


def test_jitter_and_mixup_as_released_stay_close(part: Pictures, held: ResidentPictures) -> None:
    views = Views(per_image=4, augmentation="crop_flip_jitter", mixup=0.2)
    for theirs, ours in zip(epoch(part, views, None), epoch(part, views, held), strict=True):
        for wanted, found in ((theirs.student, ours.student), (theirs.teacher, ours.teacher)):
            assert wanted is not None
            assert found is not None
            far = 255 * (found - wanted).abs()
            assert far.mean() < 0.2
            assert far.flatten().quantile(0.999) <= 8


def test_boxes_are_those_of_each_side(part: Pictures) -> None:
    rng = np.random.default_rng(3)
    boxes = np.stack([*rng.integers(0, 30, (2, len(part))), *rng.integers(20, 60, (2, len(part)))], axis=1)
    boxes[::4, 2] = 0
    boxed = replace(part, boxes=boxes)
    qualities = (CLEAN, Quality(boxes=True))
    host, device = (epoch(boxed, Views(), pictures, qualities=qualities) for pictures in (None, on_device(boxed)))
    for theirs, ours in zip(host, device, strict=True):
        assert theirs.teacher is not None
        assert ours.teacher is not None
        assert (255 * (ours.student - theirs.student)).abs().max() <= 1.01
        assert (255 * (ours.teacher - theirs.teacher)).abs().max() <= 1.01
    outside = replace(part, boxes=np.full((len(part), 4), 200))
    with pytest.raises(DataError, match="lies outside the picture of 80 x 64 pixels"):
        epoch(outside, Views(), on_device(outside), qualities=qualities)


class Sent(Waits):
    """Notes too what goes from the host to a device without values."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func.overloadpacket.__name__ in COPIES and result.device != args[0].device:
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize("qualities", [(CLEAN, CLEAN), (Quality(degraded_size=12), CLEAN)])
def test_the_host_waits_for_nothing_and_sends_a_few_numbers(
    part: Pictures, held: ResidentPictures, qualities: tuple[Quality, Quality]
) -> None:
    """On a device without values, where a look at one is an error and so is a tensor that lies elsewhere."""
    nowhere = replace(held, pixels=held.pixels.to("meta"))
    views = Views(per_image=2, augmentation="crop_flip_jitter", mixup=0.2)
    with Sent() as watched:
        made = epoch(part, views, nowhere, qualities=qualities)
    assert {batch.student.device.type for batch in made} == {"meta"}
    assert {batch.student.shape for batch in made} == {(12, 3, 24, 24)}
    assert watched.shapes == [(24, 20), (12, 1, 1, 1)] * len(made), "once for both sizes: views and partners; weights"
    assert not watched.found


@needs_gpu
def test_a_gpu_is_not_waited_for_and_shows_the_same(part: Pictures, held: ResidentPictures) -> None:
    views, card = Views(per_image=2, augmentation="crop_flip_jitter", mixup=0.2), resident.resident(part, torch.device("cuda"))
    epoch(part, views, card)
    with in_error_mode():
        made = epoch(part, views, card)
    for ours, theirs in zip(made, epoch(part, views, held), strict=True):
        assert (255 * (ours.student.cpu() - theirs.student).abs()).mean() < 0.05


def test_the_same_bits_again_and_whatever_the_number_of_processes(part: Pictures, held: ResidentPictures) -> None:
    views = Views(per_image=2, augmentation="crop_flip_jitter", mixup=0.2)
    first = epoch(part, views, held)
    for again in (epoch(part, views, held, workers=2), epoch(part, views, on_device(part))):
        assert all(torch.equal(one.student, other.student) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("views", [Views(per_image=2), Views(per_image=2, mixup=0.4, coupled=False)])
def test_a_broken_picture_is_left_out_named_and_counted(root: Path, tmp_path: Path, views: Views) -> None:
    copies = [load_dataset(Data(root=str(shutil.copytree(root, tmp_path / name)))) for name in ("host", "device")]
    for copy in copies:
        file = copy.root / VICTIM
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(UserWarning, match=f"left out of this run: .*{VICTIM}") as told:
        pictures = on_device(copies[1])
    assert len(told) == 1
    assert copies[1].skipped == {"data/skipped": 1.0}
    composition = Batches(kind="plain", size=6, iterations=4)
    with pytest.warns(UserWarning, match=VICTIM):
        host = epoch(copies[0], views, None, composition=composition)
    device = epoch(copies[1], views, pictures, composition=composition)
    for theirs, ours in zip(host, device, strict=True):
        assert PLACE not in ours.index
        assert torch.equal(theirs.index, ours.index)
        assert (255 * (ours.student - theirs.student)).abs().max() <= 1.01


def test_more_than_half_broken_is_refused(root: Path, tmp_path: Path) -> None:
    part = load_dataset(Data(root=str(shutil.copytree(root, tmp_path / "copy"))))
    for position in range(10):
        file = Path(part.file(position))
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match="10 of 18 pictures cannot be read"):
        resident.resident(part, CPU)


def test_what_does_not_fit_is_said_and_left_to_the_host(part: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_PICTURE_CACHE_MB", "0")
    with pytest.warns(UserWarning, match=r"18 training pictures take 1 MB, and \$DMKD_PICTURE_CACHE_MB allows 0: .*on the host"):
        assert resident.resident(part, CPU) is None
    monkeypatch.setenv("DMKD_PICTURE_CACHE_MB", "1")
    with warnings.catch_warnings(action="error"):
        assert resident.resident(part, CPU) is not None


def test_files_that_grow_meanwhile_do_not_overrun_the_buffer(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = load_dataset(Data(root=str(shutil.copytree(root, tmp_path / "copy"))))

    def grow(device: torch.device) -> tuple[int, str]:  # called between the headers and the pictures
        for position in range(len(part)):
            Image.new("RGB", (90, 90)).save(part.file(position))
        return room(device)

    monkeypatch.setattr(resident, "room", grow)
    with pytest.raises(DataError, match="pictures changed while they were read; start again"):
        resident.resident(part, CPU)


@pytest.mark.parametrize(
    ("free", "own", "held", "used", "expected"),
    [
        (100, 200.0, 0, 0, 50),  # a card of one's own
        (100, 60.0, 0, 0, 30),  # a share of one
        (100, 60.0, 40, 10, 25),  # 20 to be had and 30 held in reserve
        (100, 30.0, 40, 40, 0),
    ],
)
def test_half_of_what_is_free_of_the_card_or_of_a_share_of_it(free: int, own: float, held: int, used: int, expected: int) -> None:
    assert share_of_free(free, own, held, used) == expected


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_card_is_asked_for_its_room_with_and_without_its_number(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_card(monkeypatch, free=30 * 2**30, share=0.3)
    assert room(torch.device(device)) == (12 * 2**30, "50% of the GPU's free memory")


def test_the_test_transform_is_not_made_on_the_device(part: Pictures, held: ResidentPictures) -> None:
    with pytest.raises(ConfigError, match=r"found views\.augmentation=none, the test transform, wanted crops"):
        epoch(part, Views(augmentation="none"), held)


def test_pictures_are_read_from_what_the_machine_has_decoded(part: Pictures) -> None:
    on_device(part)
    known = len(shared_cache())
    on_device(part)
    assert len(shared_cache()) == known > 0
