"""SfM-120k and the landmark test sets, read from miniatures in their real formats."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmkd.data import LANDMARKS, Data
from dmkd.data.datasets import DATASETS, load_dataset
from dmkd.data.prepare import check
from dmkd.data.revisited import read_landmarks
from dmkd.data.sfm120k import whitening_listing
from dmkd.data.splits import split
from dmkd.errors import DataError
from tests.landmarks import PER_CLUSTER, TRAIN_CLUSTERS, VAL_CLUSTERS, make_landmark_test, make_sfm120k


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sfm120k(tmp_path_factory.mktemp("sfm"))


def sfm_content(sfm: Path) -> dict[str, Any]:
    content: dict[str, Any] = pickle.loads((sfm / "retrieval-SfM-120k.pkl").read_bytes())
    return content


def test_sfm_has_clusters_parts_and_pairs(sfm: Path) -> None:
    pictures = load_dataset(Data(name="sfm120k", root=str(sfm)))
    content = sfm_content(sfm)
    cid = content["train"]["cids"][0]
    assert pictures.paths[0] == f"ims/{cid[30:]}/{cid[28:30]}/{cid[26:28]}/{cid}"
    assert len(pictures) == PER_CLUSTER * (TRAIN_CLUSTERS + VAL_CLUSTERS)
    assert len(pictures.classes) == TRAIN_CLUSTERS + VAL_CLUSTERS  # clusters are numbered anew in each part
    parts = split(pictures, Data(name="sfm120k", root=str(sfm)))
    assert (len(parts.train.classes), parts.test) == (TRAIN_CLUSTERS, None)
    assert parts.val is not None
    for name, part in {"train": parts.train, "val": parts.val}.items():
        listed = content[name]
        assert [Path(path).name for path in part.paths] == listed["cids"]
        assert part.labels.tolist() == listed["cluster"]
        assert part.pairs is not None
        assert part.pairs.tolist() == [list(pair) for pair in zip(listed["qidxs"], listed["pidxs"], strict=True)]
    whole = split(pictures, Data(name="sfm120k", root=str(sfm), validation=0)).train
    assert whole.pairs is not None
    assert len(whole.pairs) == len(content["train"]["qidxs"]) + len(content["val"]["qidxs"])


def test_a_part_keeps_the_pairs_that_are_whole_in_its_own_order(sfm: Path) -> None:
    pictures = load_dataset(Data(name="sfm120k", root=str(sfm)))
    assert pictures.pairs is not None
    part = pictures.part([4, 3, 0])
    wanted = [(part.paths.index(pictures.paths[q]), part.paths.index(pictures.paths[p])) for q, p in ((3, 4), (4, 3))]
    assert part.pairs is not None
    assert sorted(map(tuple, part.pairs.tolist())) == sorted(wanted)
    moved = pictures.part(range(len(pictures)))
    assert moved.fingerprint == pictures.fingerprint
    object.__setattr__(moved, "pairs", pictures.pairs[::-1])
    assert moved.part(range(len(pictures))).fingerprint != pictures.fingerprint


def test_the_folder_may_lie_as_the_authors_scripts_leave_it_and_whitening_has_its_own_list(sfm: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "retrieval-SfM-120k").symlink_to(sfm)
    assert len(load_dataset(Data(name="sfm120k", root=str(tmp_path)))) == 30
    listing = whitening_listing(tmp_path)
    assert (len(listing.paths), len(listing.classes)) == (18, 1)
    only = make_sfm120k(tmp_path / "plain", whitening=False)
    listing = whitening_listing(only)
    assert listing.pairs is not None
    assert listing.pairs[:, 0].tolist() == sfm_content(only)["train"]["qidxs"]


def test_prepare_counts_what_is_there_against_what_is_known(sfm: Path) -> None:
    report = check("sfm120k", str(sfm))
    assert report.unexpected == ("found 30 pictures, known are 98045", "found 18 pictures of training classes, known are 91642")
    assert (report.missing, report.broken, report.lonely) == ((), (), ())
    known = {name: DATASETS[name].images for name in LANDMARKS}
    assert known == {"roxford5k": 5063, "rparis6k": 6392, "oxford5k": 5118, "paris6k": 6447}


BROKEN_SFM: dict[str, tuple[Any, str]] = {
    "a list": ([], "found list, wanted a dict with the key 'train'"),
    "no val": ({"train": None}, "found NoneType, wanted a dict with the key 'cids'"),
    "a path": ({"train": {"cids": ["../../etc"], "cluster": [0], "qidxs": [0], "pidxs": [0]}}, "found the picture name"),
    "a far pair": ({"train": {"cids": ["abcdefgh"], "cluster": [0], "qidxs": [0], "pidxs": [1]}}, "positions in a list of 1"),
    "half a pair": ({"train": {"cids": ["abcdefgh"], "cluster": [0], "qidxs": [0], "pidxs": []}}, "1 qidxs and 0 pidxs"),
    "clusters": ({"train": {"cids": ["abcdefgh"], "cluster": [], "qidxs": [0], "pidxs": [0]}}, "1 cids and 0 clusters"),
    "names": ({"train": {"cids": [1], "cluster": [0], "qidxs": [0], "pidxs": [0]}}, "found list, wanted a list of names"),
    "text": ({"train": {"cids": ["abcdefgh"], "cluster": ["x"], "qidxs": [0], "pidxs": [0]}}, "wanted a list of whole numbers"),
}


@pytest.mark.parametrize("name", BROKEN_SFM)
def test_a_broken_list_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, told = BROKEN_SFM[name]
    (tmp_path / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError) as caught:
        load_dataset(Data(name="sfm120k", root=str(tmp_path)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for .*retrieval-SfM-120k.pkl, which does not exist; wanted .*ims/"):
        load_dataset(Data(name="sfm120k", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"looked for .*gnd_roxford5k.pkl, which does not exist; wanted .*jpg/"):
        load_dataset(Data(name="roxford5k", root=str(tmp_path)))
    make_landmark_test(tmp_path, "roxford5k")
    (tmp_path / "jpg" / "some_place1_000002.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 24 pictures are missing, first jpg/some_place1_000002.jpg"):
        load_dataset(Data(name="roxford5k", root=str(tmp_path)))
    assert check("roxford5k", str(tmp_path)).missing == ("jpg/some_place1_000002.jpg",)


@pytest.mark.parametrize("name", ["roxford5k", "paris6k"])
def test_a_test_set_has_a_database_boxed_queries_and_lists(tmp_path: Path, name: str) -> None:
    test = read_landmarks(name, make_landmark_test(tmp_path, name))
    assert (test.database, len(test.listing.paths), test.revisited) == (16, 24, name == "roxford5k")
    assert test.listing.boxes is not None
    assert not test.listing.boxes[:16].any()
    # 54.6, 19.7, 96.2, 60.4 and 10.6, 4.7, 45.2, 38.4: corners to whole pixels
    assert test.listing.boxes[16].tolist() == ([55, 20, 41, 40] if test.revisited else [11, 5, 34, 33])
    assert test.landmark[:3] == ("some_place0", "some_place0", "some_place1")
    if test.revisited:
        assert np.flatnonzero(test.mask("easy", "hard")[2]).tolist() == [4, 5, 6]
        assert np.flatnonzero(test.mask("junk")[7]).tolist() == [0, 1]
    else:
        assert np.flatnonzero(test.mask("ok")[7]).tolist() == [12, 13, 14]
        assert test.listing.paths[16] == test.listing.paths[0]  # a query is a picture of the database
    with pytest.raises(DataError, match="0 training"):
        split(load_dataset(Data(name=name, root=str(tmp_path))), Data(name=name))


def broken_truth(change: dict[str, Any]) -> dict[str, Any]:
    row = {"bbx": [0, 0, 9, 9], "easy": [0], "hard": [], "junk": []}
    return {"imlist": ["a_1"], "qimlist": ["a_2"], "gnd": [row]} | change


BROKEN_TRUTH: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"gnd": 3}, "gnd: found int, wanted one for each of 1 queries"),
    "too few": ({"gnd": []}, "found 0 entries"),
    "a path": ({"imlist": ["../../etc/passwd"]}, "leaves the data set's folder"),
    "another protocol": ({"gnd": [{"ok": [0], "junk": []}]}, "found a dict with ok, junk, wanted a dict with the key 'easy'"),
    "far": ({"gnd": [{"easy": [1], "hard": [], "junk": []}]}, "easy: found 1 .. 1, wanted positions in a list of 1"),
    "a box": ({"gnd": [{"bbx": [5, 5, 5, 9], "easy": [0], "hard": [], "junk": []}]}, "wanted left, top, right, bottom"),
    "half a box": ({"gnd": [{"bbx": [5, 5], "easy": [0], "hard": [], "junk": []}]}, "wanted left, top, right, bottom"),
}


@pytest.mark.parametrize("name", BROKEN_TRUTH)
def test_a_broken_ground_truth_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    change, told = BROKEN_TRUTH[name]
    (tmp_path / "gnd_rparis6k.pkl").write_bytes(pickle.dumps(broken_truth(change), 2))
    with pytest.raises(DataError) as caught:
        read_landmarks("rparis6k", tmp_path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_query_without_a_box_is_the_whole_picture(tmp_path: Path) -> None:
    (tmp_path / "gnd_rparis6k.pkl").write_bytes(pickle.dumps(broken_truth({"gnd": [{"easy": [0], "hard": [], "junk": []}]}), 2))
    boxes = read_landmarks("rparis6k", tmp_path).listing.boxes
    assert boxes is not None
    assert not boxes.any()
