"""Near-duplicates: what a perceptual hash forgives, and that pairs across parts are found as a plain loop finds them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from dmkd.data import Data
from dmkd.data.datasets import read_listing
from dmkd.data.duplicates import NEAR, near_pairs, phash
from dmkd.data.prepare import check
from tests.pictures import make_folder, make_manifest, sign_picture


def bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def test_the_hash_is_the_signs_of_the_lowest_cosines() -> None:
    for number in range(0, 40, 7):
        grey = np.asarray(sign_picture(number).convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=float)
        low = dctn(grey, type=2)[:8, :8].reshape(-1)
        expected = "".join("1" if value > np.median(low[1:]) else "0" for value in low)
        # The orthogonal and the plain transform differ by factors of the first row and column alone, which keep no order.
        assert bits(phash(sign_picture(number)), int(expected, 2)) == 0


def test_it_forgives_size_compression_and_light_and_not_another_picture() -> None:
    pictures = [sign_picture(number, 128) for number in range(0, 300, 10)]
    hashes = [phash(picture) for picture in pictures]
    apart = []
    for picture, own in zip(pictures, hashes, strict=True):
        packed = io.BytesIO()
        picture.resize((90, 90)).save(packed, "jpeg", quality=60)
        apart.append(bits(own, phash(Image.open(packed))))
        apart.append(bits(own, phash(ImageEnhance.Brightness(picture).enhance(0.9))))
    assert np.mean(np.array(apart) <= NEAR) > 0.95
    others = [bits(one, other) for place, one in enumerate(hashes) for other in hashes[:place]]
    assert np.mean(np.array(others) <= NEAR) < 0.02


def test_pairs_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmkd.data.duplicates.TOGETHER", 64)
    rng = np.random.default_rng(0)
    left, right = (rng.integers(2**63, size=count, dtype=np.uint64) for count in (30, 20))
    for place in range(0, 20, 3):  # some are near
        right[place] = left[place] ^ np.uint64(sum(1 << int(bit) for bit in rng.choice(64, place // 2, replace=False)))
    expected = [
        (i, j, bits(int(a), int(b))) for i, a in enumerate(left) for j, b in enumerate(right) if bits(int(a), int(b)) <= 6
    ]
    assert len(expected) > 3
    assert near_pairs(left, right, within=6) == sorted(expected, key=lambda pair: (pair[2], *pair[:2]))


def test_prepare_names_what_stands_in_two_parts_and_deletes_nothing(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=8, size=96)
    same, near, torn = root / "class_006" / "same.png", root / "class_007" / "near.jpg", root / "class_001" / "torn.png"
    shutil.copy(root / "class_001" / "0-openmoji.png", same)
    with Image.open(root / "class_002" / "1-twemoji.png") as picture:
        picture.convert("RGB").resize((70, 70)).save(near, quality=70)
    shutil.copy(root / "class_000" / "0-openmoji.png", torn)
    report = check("folder", str(root))
    assert report.ok
    assert ("class_001/0-openmoji.png", "class_006/same.png") in report.overlaps.same
    assert ("class_002/1-twemoji.png", "class_007/near.jpg") in [pair[:2] for pair in report.overlaps.near]
    assert report.overlaps.torn == (("class_000/0-openmoji.png", "class_001/torn.png"),)
    assert any(line.startswith("no split is given; proposed, the first half") for line in report.lines())
    assert any("1 pictures stand in two parts: class_001/0-openmoji.png = class_006/same.png" in line for line in report.lines())
    assert all(file.exists() for file in (same, near, torn))


def test_validation_classes_of_a_manifest_are_a_part_too(tmp_path: Path) -> None:
    file = make_manifest(tmp_path, classes=6, size=64, group=False)
    shutil.copy(tmp_path / "images/class_000/0-openmoji.png", tmp_path / "images/class_002/0-openmoji.png")
    file.write_text(
        "\n".join(line.replace(",train", ",val") if ",class_002," in line else line for line in file.read_text().splitlines())
    )
    assert read_listing(Data(name="manifest", root=str(file))).split is not None
    report = check("manifest", str(file))
    assert ("images/class_000/0-openmoji.png", "images/class_002/0-openmoji.png") in report.overlaps.same
    assert report.parts == "split: 2 train, 1 val, 3 test classes"
