"""Opening pictures of every mode and in every state of disrepair, and the bounded cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmkd.data import cache as cache_module
from dmkd.data.cache import PictureCache, open_picture, shared_cache
from dmkd.errors import DataError
from tests.pictures import sign_picture


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"), [("RGB", "png", 0), ("L", "png", 0), ("P", "png", 0), ("1", "png", 0), ("CMYK", "tif", 1)]
)
def test_modes_become_the_rgb_that_was_meant(tmp_path: Path, mode: str, suffix: str, tolerance: int) -> None:
    converted = sign_picture(3).convert(mode)
    converted.save(tmp_path / f"x.{suffix}")
    opened = open_picture(tmp_path / f"x.{suffix}")
    assert opened.mode == "RGB"
    assert np.abs(pixels(opened) - pixels(converted.convert("RGB"))).max() <= tolerance


def test_adobe_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    sign_picture(3).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert np.abs(pixels(open_picture(tmp_path / "x.jpg")) - pixels(sign_picture(3))).mean() < 6


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = sign_picture(3).convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 64))
    picture.save(tmp_path / "x.png")
    expected = 255 + (pixels(sign_picture(3)) - 255) * 64 / 255
    assert np.abs(pixels(open_picture(tmp_path / "x.png")) - expected).max() <= 1


def test_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.paste(1, (0, 0, 8, 4))
    palette.save(tmp_path / "x.png", transparency=b"\x00\xff")
    opened = pixels(open_picture(tmp_path / "x.png"))
    assert opened[0, 0].tolist() == [200, 0, 0]
    assert opened[7, 7].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.asarray(sign_picture(3).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "x.png")
    assert (pixels(open_picture(tmp_path / "x.png")) == grey[..., None]).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    upright = sign_picture(3).crop((0, 0, 96, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", exif=exif)
    assert (pixels(open_picture(tmp_path / "x.png")) == pixels(upright)).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [sign_picture(number) for number in (3, 4)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (pixels(open_picture(tmp_path / "x.webp")) == pixels(frames[0])).all()


def _broken(folder: Path, kind: str) -> Path:
    file = folder / "car.jpg"
    sign_picture(3).save(file)
    whole = file.read_bytes()
    contents = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404 Not Found</html>", "header": whole[:20]}
    if kind == "missing":
        file.unlink()
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(contents[kind])
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "truncated"),
        ("empty", "0 bytes"),
        ("text", "not a picture"),
        ("header", "not a picture|broken"),
        ("missing", "no such picture"),
        ("folder", "no such picture"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, kind: str, reason: str) -> None:
    file = _broken(tmp_path, kind)
    with pytest.raises(DataError, match=reason) as caught:
        open_picture(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="8 or 16 bits"):
        open_picture(tmp_path / "x.tif")


def test_cache_keeps_the_most_recently_used_within_its_limit(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files.append(str(tmp_path / f"{number}.png"))
        sign_picture(number, 32).save(files[-1])
    cache = PictureCache(limit=3 * 3 * 32 * 32)
    first = cache.open(files[0])
    cache.open(files[1])
    assert cache.open(files[0]) is first
    cache.open(files[2])
    cache.open(files[3])
    assert len(cache) == 3
    assert cache.used == 3 * 3 * 32 * 32
    assert cache.open(files[0]) is first  # used after 1, so 1 went


def test_cache_reads_a_changed_file_again_and_a_limit_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    sign_picture(1, 32).save(file)
    cache, none = PictureCache(2**20), PictureCache(0)
    cache.open(str(file))
    none.open(str(file))
    assert len(none) == 0
    sign_picture(2, 40).save(file)
    assert cache.open(str(file)).shape == (40, 40, 3)


def test_the_process_shares_one_cache_of_the_size_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_caches", {})
    monkeypatch.setenv("DMKD_PICTURE_CACHE_MB", "lots")
    with pytest.raises(DataError, match="found 'lots', wanted a whole number of megabytes"):
        shared_cache()
    monkeypatch.setenv("DMKD_PICTURE_CACHE_MB", "3")
    assert shared_cache().limit == 3 * 2**20
    assert shared_cache() is shared_cache()
