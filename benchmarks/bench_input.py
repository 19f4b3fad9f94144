"""Input: JPEG files of 500 x 375 pixels to a batch of random-resized crops of 224, on one core, against Pillow + torchvision.

    python benchmarks/bench_input.py          # about 3 minutes
    python benchmarks/bench_input.py device   # the last row alone

Both sides end with a float batch [112, 3, 224, 224] in [0, 1]. The pictures are drawn (a photograph's spectrum, 100 kB a file).
The last row is `data.device_views`: on a GPU the batch is made, and stays, there; on a CPU it shows what the arithmetic costs.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from ratio import device, heading, ratio
from torchvision import transforms

from dmkd.data import Data, cache
from dmkd.data.batches import Batches, training_batches
from dmkd.data.datasets import load_dataset
from dmkd.data.decoded import decoded_folder
from dmkd.data.pictures import Pictures
from dmkd.data.resident import ResidentPictures, resident
from dmkd.data.views import Views, apply_view, crop_box, draw_view, generator

COUNT, SIZE = 224, 112
MAPS = (("faithful", 0, 1 / 4), ("short side 256", 256, 1 / 8))


def photograph(number: int) -> Image.Image:
    """A picture whose spectrum falls as that of photographs (1 / f), so that a JPEG of it is as long as theirs."""
    rng = np.random.default_rng(number)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(500), np.fft.fftfreq(375)))
    noise = np.fft.fft2(rng.standard_normal((3, 375, 500))) / np.maximum(frequency, 1 / 500)
    field = np.fft.ifft2(noise).real
    field = (field + field.mean(0)) / field.std()
    return Image.fromarray(np.clip(128 + 45 * field, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def pictures(folder: Path) -> Pictures:
    for number in range(COUNT):
        file = folder / f"class_{number // 2:03d}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(file, quality=92)
    lengths = [file.stat().st_size for file in folder.rglob("*.jpg")]
    print(f"{COUNT} files of {np.mean(lengths) / 1e3:.0f} kB")
    return load_dataset(Data(root=str(folder)))


def batch(part: Pictures, short_side: int = 0, held: ResidentPictures | None = None) -> torch.Tensor:
    """One batch of 112 crops by dmkd's loader in this process, or where the pictures are held."""
    drawn = Batches(kind="plain", size=SIZE, iterations=1)
    wanted = {"student_resolution": 224, "teacher_resolution": None, "epoch": 0, "seed": 0}
    (made,) = training_batches(part, Views(teacher=False), drawn, short_side=short_side, pictures=held, **wanted)
    return made.student


def peer(part: Pictures, transform: transforms.Compose) -> torch.Tensor:
    """The same by Pillow and torchvision, as everybody writes it."""
    return torch.stack([transform(Image.open(part.file(n)).convert("RGB")) for n in range(SIZE)])


def decoded(part: Pictures, short_side: int = 0) -> None:
    """Decode every picture once, as the first trial of a machine does, and forget what this process holds."""
    drawn = Batches(kind="plain", size=COUNT, iterations=1)
    wanted = {"student_resolution": 224, "teacher_resolution": None, "epoch": 0, "seed": 0}
    for _ in range(2):
        list(training_batches(part, Views(teacher=False), drawn, short_side=short_side, **wanted))
    cache._caches.clear()


def check(part: Pictures) -> None:
    """Crops are those of Pillow to one step of 255."""
    worst, differ = 0, 0.0
    for number in range(20):
        draw = draw_view(Views(), generator(0, number))
        with Image.open(part.file(number)) as picture:
            shown = picture.convert("RGB")
        left, top, width, height = crop_box(draw.tries, *shown.size, draw.min_scale)
        wanted = shown.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BILINEAR)
        wanted = np.asarray(wanted)[:, ::-1] if draw.flip else np.asarray(wanted)
        apart = np.abs(apply_view(np.asarray(shown), draw, 224).astype(int) - wanted)
        worst, differ = max(worst, apart.max()), differ + (apart > 0).mean() / 20
    print(f"crops against Pillow's: at most {worst} of 255 apart, {100 * differ:.1f} % of the values differ")
    assert worst <= 1


def on_device(part: Pictures) -> ResidentPictures:
    """The pictures where views are to be made of them; the views there are those of the host to one step of 255."""
    os.environ["DMKD_PICTURE_CACHE_MB"] = "512"
    held = resident(part, torch.device(device()))
    assert held is not None, f"{COUNT} pictures do not fit {device()}"
    apart = 255 * (batch(part, held=held).cpu() - batch(part)).abs()
    print(f"views on {device()} against the host's: at most {apart.max():.2f} of 255 apart, {apart.mean():.3f} in the mean")
    assert apart.max() <= 1.01
    return held


def main() -> None:
    torch.set_num_threads(1)
    heading()
    folder = Path(tempfile.mkdtemp(prefix="dmkd-bench-"))
    os.environ |= {"DMKD_CACHE": str(folder / "cache"), "DMKD_PICTURE_CACHE_MB": "0"}
    try:
        part = pictures(folder / "pictures")
        check(part)
        theirs = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        for name, short_side, goal in () if "device" in sys.argv else MAPS:
            started = time.process_time()
            decoded(part, short_side)
            print(f"{name}: decoded once in {time.process_time() - started:.1f} s")
            ratio(
                f"input, JPEG 500 x 375 to crops of 224 ({name} memory map), 112 images on one core",
                lambda short=short_side: batch(part, short),
                lambda: peer(part, theirs),
                peer_name="Pillow + torchvision",
                goal=goal,
                note="float batch on both sides",
            )
        kept = decoded_folder(os.fspath(part.root)) / "pixels"
        if kept.is_file():
            print(f"{kept.stat().st_size / COUNT / 1e3:.0f} kB of decoded pixels a picture (both kinds)")
        held = on_device(part)
        ratio(
            f"input, JPEG 500 x 375 to crops of 224 (data.device_views on {device()}), 112 images",
            lambda: batch(part, held=held),
            lambda: peer(part, theirs),
            peer_name="Pillow + torchvision",
            note="float batch on both sides; pictures held as bytes; on a CPU one core",
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
