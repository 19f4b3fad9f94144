"""`check`: what is missing, broken or unexpected is counted and named, and nothing is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.data.prepare import check
from dmkd.errors import DataError
from tests.pictures import make_cars196, make_folder, make_manifest


def test_a_whole_folder_is_ok(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=4, size=32)
    report = check("folder", str(root))
    assert report.ok
    assert (report.images, report.classes) == (8, 4)
    assert report.fingerprint == load_dataset(Data(root=str(root))).fingerprint
    assert report.lines() == [f"folder in {root}: 8 pictures, 4 classes", f"fingerprint {report.fingerprint}"]


def test_missing_and_broken_pictures_are_named_and_left_alone(tmp_path: Path) -> None:
    make_manifest(tmp_path, classes=8, size=32)
    files = sorted((tmp_path / "images").rglob("*.png"))
    for file in files[:7]:
        file.unlink()
    files[8].write_bytes(b"")
    files[9].write_bytes(files[9].read_bytes()[:200])
    before = sorted((file, file.stat().st_size) for file in tmp_path.rglob("*"))
    report = check("manifest", str(tmp_path))
    assert not report.ok
    assert len(report.missing) == 7
    assert [path for path, _ in report.broken] == [file.relative_to(tmp_path).as_posix() for file in files[8:10]]
    lines = report.lines()
    assert lines[1].startswith("7 missing: images/class_000/0-openmoji.png; ")
    assert lines[1].endswith(" and 2 more")
    assert "0 bytes" in lines[2]
    assert "not ready" in lines[-1]
    assert sorted((file, file.stat().st_size) for file in tmp_path.rglob("*")) == before


def test_without_decoding_broken_pictures_go_unseen(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=3, size=32)
    (root / "class_000" / "0-openmoji.png").write_bytes(b"")
    assert check("folder", str(root), decode=False).ok
    assert not check("folder", str(root)).ok


def test_classes_of_one_picture_are_told_but_no_fault(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=3, size=32)
    (root / "class_002" / "0-openmoji.png").unlink()
    report = check("folder", str(root))
    assert report.ok
    assert report.lonely == ("class_002",)
    assert "1 classes with one picture: class_002" in report.lines()


def test_counts_are_compared_with_those_that_are_known(tmp_path: Path) -> None:
    report = check("cars196", str(make_cars196(tmp_path, "devkit", size=32)))
    assert not report.ok
    assert report.unexpected == (
        "found 8 classes, known are 196",
        "found 32 pictures, known are 16185",
        "found 16 pictures of training classes, known are 8054",
    )


def test_signs_are_made_where_they_are_looked_for(tmp_path: Path) -> None:
    report = check("signs", data=Data(name="signs", root=str(tmp_path), max_classes=3, render_size=24))
    assert report.ok
    assert (report.images, report.classes) == (12, 6)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check("folder", str(tmp_path / "none"))
