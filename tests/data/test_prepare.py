"""`check`: what is missing, broken or unexpected is counted and named, and nothing is touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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
    assert report.lines()[0] == f"folder in {root}: 8 pictures, 4 classes"
    assert report.lines()[-2:] == [
        f"hashes of all pictures: {root / 'dmkd-manifest.folder.json'}",
        f"fingerprint {report.fingerprint}",
    ]


def test_missing_and_broken_pictures_are_named_and_left_alone(tmp_path: Path) -> None:
    make_manifest(tmp_path, classes=8, size=32)
    files = sorted((tmp_path / "images").rglob("*.png"))
    for file in files[:7]:
        file.unlink()
    files[8].write_bytes(b"")
    files[9].write_bytes(files[9].read_bytes()[:200])
    before = {file: file.stat().st_size for file in tmp_path.rglob("*")}
    report = check("manifest", str(tmp_path))
    assert not report.ok
    assert len(report.missing) == 7
    assert [path for path, _ in report.broken] == [file.relative_to(tmp_path).as_posix() for file in files[8:10]]
    lines = report.lines()
    assert lines[1].startswith("7 missing: images/class_000/0-openmoji.png; ")
    assert lines[1].endswith(" and 2 more")
    assert "0 bytes" in lines[2]
    assert "not ready" in lines[-1]
    after = {file: file.stat().st_size for file in tmp_path.rglob("*")}
    assert after.keys() - before.keys() == {tmp_path / "dmkd-manifest.manifest.json"}
    assert before.items() <= after.items()


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


def test_it_goes_on_after_structural_faults(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=4, size=32)
    (root / "empty").mkdir()
    (root / "class_000" / "deeper").mkdir()
    shutil.copy(root / "class_001" / "0-openmoji.png", root / "stray.png")
    (root / "class_002" / "0-openmoji.png").write_bytes(b"")
    report = check("folder", str(root))
    told = " ".join(report.faults)
    assert len(report.faults) == 3
    assert all(part in told for part in ("stray.png lies outside", "deeper is a folder inside", "empty has no pictures"))
    assert (report.images, len(report.broken)) == (8, 1)
    assert report.lines()[-1].startswith("not ready")
    with pytest.raises(DataError, match=r"stray.png .* \(and 2 more faults"):
        load_dataset(Data(root=str(root)))


def test_the_next_time_names_what_has_changed(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=4, size=32)
    first = check("folder", str(root))
    assert not first.changed + first.added + first.removed
    assert check("folder", str(root)) == first
    changed = root / "class_001" / "0-openmoji.png"
    status, content = changed.stat(), bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time: the bytes tell
    (root / "class_002" / "1-twemoji.png").rename(root / "class_002" / "2-twemoji.png")
    report = check("folder", str(root))
    assert report.changed == ("class_001/0-openmoji.png",)
    assert report.added == ("class_002/2-twemoji.png",)
    assert report.removed == ("class_002/1-twemoji.png",)
    assert "1 changed since the last time: class_001/0-openmoji.png" in report.lines()


def test_hashes_go_to_the_cache_where_the_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_CACHE", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "signs", classes=4, size=32)
    (root / "dmkd-manifest.folder.json").mkdir()  # also the superuser cannot write there
    (root / "dmkd-manifest.folder.json" / "x").touch()
    report = check("folder", str(root))
    assert Path(report.record).parent == tmp_path / "cache" / "manifests"
    content = json.loads(Path(report.record).read_text())
    file = root / "class_000" / "0-openmoji.png"
    assert content["pictures"]["class_000/0-openmoji.png"][:3] == [
        file.stat().st_size,
        file.stat().st_mtime_ns,
        hashlib.sha256(file.read_bytes()).hexdigest(),
    ]
    Path(report.record).write_text(Path(report.record).read_text()[:-20])  # damaged: made anew
    assert not check("folder", str(root)).added


def test_a_file_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=3, size=32)
    os.rename(root / "class_000" / "0-openmoji.png", os.fsencode(root / "class_000") + b"/\xff.png")
    (root / "class_000" / "1-twemoji.png").write_bytes(b"")
    os.truncate(os.fsencode(root / "class_000") + b"/\xff.png", 0)
    assert "\\udcff.png" in "\n".join(check("folder", str(root)).lines()).encode("utf-8").decode()


def test_a_box_beyond_the_picture_is_named(tmp_path: Path) -> None:
    file = make_manifest(tmp_path, classes=4, size=32)
    head, *rows = file.read_text().splitlines()
    file.write_text(
        "\n".join([f"{head},x,y,width,height", f"{rows[0]},31,0,9,9", f"{rows[1]},32,0,9,9", *[f"{r},,,," for r in rows[2:]]])
    )
    assert check("manifest", str(file)).outside == ("images/class_000/1-twemoji.png (32 x 32, box from 32, 0)",)
