"""Where data sets are looked for, their fingerprint, and their parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmkd.data import Data
from dmkd.data.datasets import DATASETS, dataset_root, load_dataset
from dmkd.errors import DataError
from tests.pictures import make_folder, make_manifest


def test_the_table_is_whole() -> None:
    assert set(DATASETS) >= {"folder", "manifest", "cars196", "signs"}
    for name, info in DATASETS.items():
        assert info.name == name
        assert all(text and "\n" not in text for text in (info.summary, info.layout, info.source, info.licence))
    assert "CC-BY-SA-4.0" in DATASETS["signs"].licence
    assert "CC-BY-4.0" in DATASETS["signs"].licence


def test_unknown_name() -> None:
    with pytest.raises(DataError, match="did you mean 'cars196'"):
        load_dataset(Data(name="cars169"))


def test_root_comes_from_the_environment_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "folder", classes=2, size=32)
    monkeypatch.setenv("DMKD_DATA", str(tmp_path))
    assert dataset_root(Data()) == tmp_path / "folder"
    assert dataset_root(Data(root="/elsewhere")) == Path("/elsewhere")
    assert len(load_dataset(Data())) == 4


def test_no_root_says_both_places_and_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load_dataset(Data(name="cars196"))
    assert all(
        part in str(caught.value) for part in ("data.root", str(tmp_path / "cars196"), "car_ims/000001.jpg", "ai.stanford.edu")
    )
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("DMKD_DATA")
    with pytest.raises(DataError, match="DMKD_DATA is not set"):
        load_dataset(Data(name="cars196"))


def _manifest(root: Path) -> str:
    return load_dataset(Data(name="manifest", root=str(root / "manifest.csv"))).fingerprint


def test_fingerprint_does_not_know_where_but_what(tmp_path: Path) -> None:
    make_manifest(tmp_path / "a", classes=4, size=32)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = _manifest(tmp_path / "a")
    assert _manifest(tmp_path / "b") == first
    file, text = tmp_path / "b" / "manifest.csv", (tmp_path / "b" / "manifest.csv").read_text()
    prints = {first}
    for old, new in (("class_001,", "class_009,"), ("openmoji,train", "other,train"), (",test", ",val")):
        assert old in text
        file.write_text(text.replace(old, new))
        prints.add(_manifest(tmp_path / "b"))
    file.write_text(text)
    with (tmp_path / "b" / "images" / "class_000" / "0-openmoji.png").open("ab") as stream:
        stream.write(b"x")
    prints.add(_manifest(tmp_path / "b"))
    assert len(prints) == 5


def test_part_renumbers_and_keeps(tmp_path: Path) -> None:
    pictures = load_dataset(Data(name="manifest", root=str(make_manifest(tmp_path, classes=5, size=32))))
    part = pictures.part([9, 2, 8, 3])
    assert part.classes == ("class_001", "class_004")
    assert part.labels.tolist() == [1, 0, 1, 0]
    assert part.labels.dtype == np.int64
    assert part.paths == tuple(pictures.paths[position] for position in (9, 2, 8, 3))
    assert part.groups is not None
    assert part.groups.tolist() == [1, 0, 0, 1]
    assert part.split == ("train", "test", "train", "test")
    assert os.path.getsize(part.file(0)) == part.sizes[0]
    assert part.fingerprint != pictures.fingerprint
    assert part.fingerprint == pictures.part([0, 1, *range(2, 10)]).part([9, 2, 8, 3]).fingerprint
    assert pictures.part(range(10)).fingerprint == pictures.fingerprint


def test_the_table_needs_no_torch() -> None:
    code = "import sys, dmkd.data.datasets, dmkd.data.splits, dmkd.data.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_data_sets_are_values() -> None:
    assert replace(Data(), fold=0) == Data()
