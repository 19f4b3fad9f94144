"""The signs that anyone can install: rendered once, two artists, a split that stays."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmkd.data import Data, signs
from dmkd.data.cache import open_picture
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.splits import split
from dmkd.errors import DataError


def load(root: Path, **options: object) -> Pictures:
    return load_dataset(Data(name="signs", root=str(root), **{"render_size": 40, "max_classes": 4, **options}))  # type: ignore[arg-type]


def test_two_drawings_of_each_sign(tmp_path: Path) -> None:
    pictures = load(tmp_path)
    assert len(pictures.classes) == 8
    assert pictures.groups is not None
    assert pictures.groups.tolist() == [0, 1] * 8
    assert [path.split("/")[1] for path in pictures.paths[:2]] == ["openmoji.png", "twemoji.png"]
    for position in range(len(pictures)):
        picture = open_picture(pictures.file(position))
        assert picture.size == (40, 40)
        assert np.asarray(picture).std() > 5
        assert picture.getpixel((0, 0)) != (0, 0, 0)
    parts = split(pictures, Data(max_classes=4, validation=0))
    assert parts.test is not None
    assert (len(parts.train.classes), len(parts.test.classes)) == (4, 4)


def test_only_what_is_needed_is_rendered_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 16
    assert not list(tmp_path.rglob(".*.png*"))
    rendered: list[Path] = []
    real = signs.render
    monkeypatch.setattr(signs, "render", lambda svg, size: rendered.append(svg) or real(svg, size))
    assert load(tmp_path).fingerprint == first.fingerprint
    assert not rendered
    Path(first.file(3)).unlink()
    assert load(tmp_path).fingerprint == first.fingerprint
    assert len(rendered) == 1
    assert open_picture(load(tmp_path, render_size=24).file(0)).size == (24, 24)
    assert "resvg-py-" in str(first.root)


def test_a_small_load_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    small, large = load(tmp_path), load(tmp_path, max_classes=6)
    assert set(small.classes) <= set(large.classes)
    data = Data(max_classes=4, validation=0)
    assert split(small, data).fingerprint == split(large, data).fingerprint


def test_the_split_is_by_hash_and_about_even() -> None:
    names = [signs.sign_name(sign) for sign in signs.distinct_signs()]
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    assert sorted(names, key=digests.__getitem__) == names
    train = [name for name in names if digests[name][-1] in "02468ace"]
    assert 0.45 < len(train) / len(names) < 0.55
    assert 1800 < len(names) < 2000
    assert len(set(names)) == len(names)


def test_no_two_signs_share_a_drawing() -> None:
    for vendor in signs.PACKAGES:
        files = signs.sign_files(vendor)
        contents = [files[sign].read_bytes() for sign in signs.distinct_signs()]
        assert len(set(contents)) == len(contents)
    norway, svalbard = ("1f1f3", "1f1f4"), ("1f1f8", "1f1ef")
    assert all({norway, svalbard} <= set(signs.sign_files(vendor)) for vendor in signs.PACKAGES)
    assert norway in signs.distinct_signs()
    assert svalbard not in signs.distinct_signs()
    assert not any(signs.SKIN_TONES & set(sign) for sign in signs.distinct_signs())


def test_every_drawing_is_made_square() -> None:
    melon = signs.render(signs.sign_files("twemoji")[("1f349",)], 48)
    picture = Image.open(io.BytesIO(melon)).convert("RGB")
    assert picture.size == (48, 48)
    rows = np.flatnonzero((np.asarray(picture) < 250).any((1, 2)))
    assert abs((rows[0] + rows[-1]) / 2 - 23.5) <= 1


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DMKD_DATA", raising=False)
    monkeypatch.setenv("DMKD_CACHE", str(tmp_path / "here"))
    pictures = load_dataset(Data(name="signs", max_classes=2, render_size=16))
    assert str(pictures.root).startswith(str(tmp_path / "here" / "signs"))
    monkeypatch.delenv("DMKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert signs.default_root() == tmp_path / "xdg" / "dmkd" / "signs"


def test_an_unwritable_cache_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*DMKD_CACHE"):
        load(tmp_path / "file")
    signs.sign_files.cache_clear()
    monkeypatch.setattr(signs.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed; pip install 'dmkd\[quickstart\]'"):
        load(tmp_path)
