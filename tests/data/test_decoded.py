"""Decoded pictures on the disk: shared by processes, found whole or not at all, made again when stale."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dmkd.data.cache import PictureCache, open_picture, reduced
from dmkd.data.decoded import LIMIT_GB, RECORD, DecodedPictures, decoded_folder, decoded_limit, picture_key
from dmkd.errors import DataError
from tests.pictures import sign_picture

GIB = 2**30
KEYS = [picture_key(number) for number in range(8)]


def pixels(number: int) -> np.ndarray:
    return np.asarray(sign_picture(number, 32 + number))[: 20 + number]


def store(folder: Path, limit: int = 2**30) -> DecodedPictures:
    return DecodedPictures(folder, limit)


def disk(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    usage = SimpleNamespace(total=total, used=total - free, free=free)
    monkeypatch.setattr("dmkd.data.decoded.shutil", SimpleNamespace(disk_usage=lambda _: usage))


@pytest.fixture(autouse=True)
def _roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 1000 * GIB, 500 * GIB)  # whatever this machine's has


def test_what_is_put_is_got_by_another_process_as_a_map(tmp_path: Path) -> None:
    first, second = store(tmp_path / "kept"), store(tmp_path / "kept")
    assert not second.started
    for number, key in enumerate(KEYS):
        assert second.get(key) is None
        assert first.put(key, pixels(number))
        found = second.get(key)
        assert found is not None
        np.testing.assert_array_equal(found, pixels(number))
        assert not found.flags.writeable
        assert not found.flags.owndata
    assert second.started
    assert len(second) == len(KEYS)
    assert oct((tmp_path / "kept").stat().st_mode)[-3:] == "700"


def _put_all(folder: Path, order: list[int], start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    kept = store(folder)
    for number in order:
        assert kept.put(KEYS[number], pixels(number))


def test_processes_that_build_at_once_keep_each_picture_once(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    start = forked.Barrier(4)
    orders = [[(number * step + shift) % 8 for number in range(8)] for step, shift in ((1, 0), (3, 1), (5, 2), (7, 3))]
    builders = [forked.Process(target=_put_all, args=(tmp_path, order, start)) for order in orders]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    kept = store(tmp_path)
    assert len(kept) == 8
    assert (tmp_path / "index").stat().st_size == 8 * RECORD.size
    assert (tmp_path / "pixels").stat().st_size == sum(pixels(number).nbytes for number in range(8))
    for number, key in enumerate(KEYS):
        np.testing.assert_array_equal(kept.get(key), pixels(number))


def test_what_a_crash_left_is_not_found_and_is_made_again(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.put(KEYS[0], pixels(0))
    first.put(KEYS[1], pixels(1))
    content = bytearray((tmp_path / "pixels").read_bytes())
    content[pixels(0).nbytes + 5] ^= 1  # pixels of 1 that never reached the disk
    (tmp_path / "pixels").write_bytes(content)
    with (tmp_path / "index").open("ab") as index:
        index.write(b"half a record")
    again = store(tmp_path)
    np.testing.assert_array_equal(again.get(KEYS[0]), pixels(0))
    assert again.get(KEYS[1]) is None
    assert again.put(KEYS[1], pixels(1))
    assert again.put(KEYS[2], pixels(2))
    for kept in (again, store(tmp_path)):
        for number in range(3):
            np.testing.assert_array_equal(kept.get(KEYS[number]), pixels(number))


def test_a_record_that_was_altered_is_not_believed(tmp_path: Path) -> None:
    store(tmp_path).put(KEYS[0], pixels(0))
    content = bytearray((tmp_path / "index").read_bytes())
    content[16] ^= 64  # the offset
    (tmp_path / "index").write_bytes(content)
    assert store(tmp_path).get(KEYS[0]) is None
    (tmp_path / "pixels").unlink()
    assert store(tmp_path).get(KEYS[0]) is None


def test_an_emptied_folder_is_begun_anew(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for number in range(3):
        kept.put(KEYS[number], pixels(number))
    for file in tmp_path.iterdir():
        file.unlink()
    assert kept.put(KEYS[4], pixels(4))
    np.testing.assert_array_equal(kept.get(KEYS[4]), pixels(4))
    np.testing.assert_array_equal(store(tmp_path).get(KEYS[4]), pixels(4))


def test_the_limit_holds_and_nothing_is_warned_of(tmp_path: Path) -> None:
    kept = store(tmp_path, pixels(0).nbytes + 10)
    assert kept.put(KEYS[0], pixels(0))
    assert not kept.put(KEYS[1], pixels(1))
    assert kept.get(KEYS[1]) is None
    assert kept.get(KEYS[0]) is not None


@pytest.mark.parametrize(("total", "left"), [(1000, 10), (100, 10), (40, 4)])
def test_ten_gibibytes_of_a_disk_or_a_tenth_stay_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, left: int
) -> None:
    kept = store(tmp_path)
    disk(monkeypatch, total * GIB, left * GIB + pixels(0).nbytes)
    assert kept.put(KEYS[0], pixels(0))
    disk(monkeypatch, total * GIB, left * GIB + pixels(0).nbytes - 1)
    with pytest.warns(UserWarning, match=rf"not added: {left}\.0 GiB of the disk are free, {left}\.0 stay so.*DMKD_CACHE"):
        assert not kept.put(KEYS[1], pixels(1))
    assert not kept.put(KEYS[1], pixels(1))  # and no second warning
    assert kept.get(KEYS[0]) is not None
    assert kept.get(KEYS[1]) is None
    disk(monkeypatch, total * GIB, total * GIB)
    assert kept.put(KEYS[1], pixels(1))


def test_a_disk_that_is_full_is_warned_of_once_and_leaves_no_half_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(tmp_path)
    kept.put(KEYS[0], pixels(0))
    opened = Path.open

    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, content: memoryview) -> None:
            self.file.write(bytes(content)[:100])  # type: ignore[attr-defined]
            self.file.flush()  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path: Path, *mode: str) -> object:
        file = opened(path, *mode)
        return Full(file) if path.name == "pixels" and mode == ("ab",) else file

    monkeypatch.setattr(Path, "open", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert not kept.put(KEYS[1], pixels(1))
    monkeypatch.undo()
    assert (tmp_path / "pixels").stat().st_size == pixels(0).nbytes
    assert not kept.put(KEYS[1], pixels(1))  # and no second warning
    assert store(tmp_path).put(KEYS[1], pixels(1))


def test_a_set_larger_than_the_memory_goes_to_the_disk_and_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, file in enumerate(files):
        sign_picture(number, 32).save(file)
    decoded: list[str] = []
    monkeypatch.setattr("dmkd.data.cache.open_picture", lambda path: decoded.append(str(path)) or open_picture(path))

    def cache() -> PictureCache:
        return PictureCache(3 * 3 * 32 * 32, lambda root: store(tmp_path / "kept"))

    first = cache()
    for _ in range(4):
        for file in files:
            np.testing.assert_array_equal(first.open(file, "root"), np.asarray(open_picture(file)))
    assert len(decoded) <= 2 * len(files)
    decoded.clear()
    second = cache()
    for file in files:
        np.testing.assert_array_equal(second.open(file, "root"), np.asarray(open_picture(file)))
    assert len(decoded) <= 3  # those that the first had in memory
    decoded.clear()
    third = cache()
    assert not [third.open(file, "root") for file in files if decoded]
    sign_picture(7, 40).save(files[0])  # stale
    np.testing.assert_array_equal(third.open(files[0], "root"), np.asarray(open_picture(files[0])))


@pytest.mark.parametrize(
    ("size", "short_side", "wanted"), [((90, 60), 30, (45, 30)), ((60, 90), 100, (60, 90)), ((50, 50), 0, (50, 50))]
)
def test_reduced_pictures_keep_their_ratio_and_are_kept_beside_whole_ones(
    tmp_path: Path, size: tuple[int, int], short_side: int, wanted: tuple[int, int]
) -> None:
    picture = sign_picture(2).resize(size)
    assert reduced(picture, short_side).size == wanted
    picture.save(tmp_path / "x.png")
    cache = PictureCache(2**20)
    assert cache.open(str(tmp_path / "x.png")).shape == (size[1], size[0], 3)
    found = cache.open(str(tmp_path / "x.png"), "", short_side)
    np.testing.assert_array_equal(found, np.asarray(picture.resize(wanted, Image.Resampling.BILINEAR)))


def test_where_and_how_much_is_said_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_CACHE", str(tmp_path))
    assert decoded_folder("a").is_relative_to(tmp_path / "decoded")
    assert decoded_folder("a") != decoded_folder("b")
    monkeypatch.setenv(LIMIT_GB, "3")
    assert decoded_limit() == 3 * 2**30
    monkeypatch.setenv(LIMIT_GB, "much")
    with pytest.raises(DataError, match="found 'much', wanted a whole number of gigabytes"):
        decoded_limit()
