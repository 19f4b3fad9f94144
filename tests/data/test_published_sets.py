"""CUB-200-2011, Stanford Online Products and In-Shop in their real formats, on small trees of real pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from dmkd.data import Data
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.pictures import GALLERY, QUERY
from dmkd.data.prepare import check
from dmkd.data.splits import split
from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.measure import Measure
from tests.pictures import make_cub200, make_inshop, make_sop

MAKERS: dict[str, Callable[..., Path]] = {"cub200": make_cub200, "sop": make_sop, "inshop": make_inshop}
FOLDERS = {"cub200": "CUB_200_2011", "sop": "Stanford_Online_Products", "inshop": "In-shop Clothes Retrieval Benchmark"}


@pytest.fixture(scope="module", params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path_factory.mktemp(request.param), size=32)


def load(name: str, root: Path) -> Pictures:
    return load_dataset(Data(name=name, root=str(root)))


def refused(name: str, root: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        split(load(name, root), Data(name=name))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_half_of_the_classes_trains_and_every_file_is_found(made: tuple[str, Path]) -> None:
    name, root = made
    pictures = load(name, root)
    parts = split(pictures, Data(validation=0))
    assert parts.test is not None
    assert (len(parts.train), len(parts.test), len(parts.train.classes), len(parts.test.classes)) == (16, 16, 4, 4)
    assert not set(parts.train.classes) & set(parts.test.classes)
    files = {path for path in root.rglob("*") if path.suffix.lower() == ".jpg"}
    assert {Path(pictures.file(position)) for position in range(len(pictures))} == files


def test_the_archives_folder_and_its_inside_are_the_same(made: tuple[str, Path]) -> None:
    name, root = made
    assert load(name, root).fingerprint == load(name, root / FOLDERS[name]).fingerprint


def test_counts_are_compared_with_the_known_ones(made: tuple[str, Path]) -> None:
    name, root = made
    known = {
        "cub200": ("200", "11788", "5864"),
        "sop": ("22634", "120053", "59551"),
        "inshop": ("7982", "52712", "25882", "14218"),
    }
    report = check(name, str(root), decode=False)
    assert not report.ok
    assert tuple(sentence.rsplit(" ", 1)[1] for sentence in report.unexpected) == known[name]


def test_cub_boxes_and_classes_are_those_of_its_lists(tmp_path: Path) -> None:
    pictures = load("cub200", make_cub200(tmp_path, size=32))
    base = tmp_path / "CUB_200_2011"
    number = dict(line.split() for line in (base / "image_class_labels.txt").read_text().splitlines())
    for line, path, label in zip((base / "images.txt").read_text().splitlines(), pictures.paths, pictures.labels, strict=True):
        image, expected = line.split()
        assert path == expected
        assert int(pictures.classes[label][:3]) == int(number[image])
    assert pictures.boxes is not None
    assert pictures.boxes.tolist() == [[8, 0, 32, 32]] * 32
    for name in ("images.txt", "bounding_boxes.txt"):
        (base / name).unlink()
    assert ImageFolder(base / "images").targets == load("cub200", tmp_path).labels.tolist()


def test_inshop_boxes_count_from_0(tmp_path: Path) -> None:
    pictures = load("inshop", make_inshop(tmp_path, classes=4, size=32))
    assert pictures.boxes is not None
    with Image.open(pictures.file(0)) as picture:
        left, top, width, height = pictures.boxes[0].tolist()
        inside = np.asarray(picture.convert("RGB").crop((left, top, left + width, top + height)))
    assert inside.shape == (32, 32, 3)
    assert (left, top) == (8, 0)


def test_inshop_queries_meet_gallery_pictures_alone(tmp_path: Path) -> None:
    pictures = load("inshop", make_inshop(tmp_path, size=32))
    parts = split(pictures, Data(validation=0))
    assert parts.test is not None
    assert parts.test.role is not None
    assert parts.train.role is not None
    assert not parts.train.role.any()
    assert sorted(parts.test.role) == [QUERY] * 8 + [GALLERY] * 8
    vectors = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    evaluation = Evaluation(k=(1, 3))
    metrics, outcomes = Measure(parts.test, Data(), evaluation, torch.device("cpu")).compare(vectors, vectors)
    hits = {1: 0, 3: 0}
    queries = np.flatnonzero(parts.test.role == QUERY)
    gallery = np.flatnonzero(parts.test.role == GALLERY)
    for query in queries:
        ranked = sorted(gallery, key=lambda other: -float(vectors[query] @ vectors[other]))
        for k in hits:
            hits[k] += any(parts.test.labels[other] == parts.test.labels[query] for other in ranked[:k])
    assert metrics["recall_at_1"] == pytest.approx(hits[1] / 8)
    assert metrics["recall_at_3"] == pytest.approx(hits[3] / 8)
    assert outcomes.query.tolist() == queries.tolist()
    assert pictures.fingerprint != load("inshop", _swapped(tmp_path)).fingerprint


def _swapped(root: Path) -> Path:
    file = root / FOLDERS["inshop"] / "Eval" / "list_eval_partition.txt"
    text = file.read_text().replace("query", "?").replace("gallery", "query").replace("?", "gallery")
    file.write_text(text)
    return root


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "file", "change", "parts"),
    [
        ("cub200", "images.txt", ("2 001", "two 001"), ("images.txt, line 2", "'two' as image_id, wanted a whole number")),
        ("cub200", "image_class_labels.txt", ("3 1\n", ""), ("no label for image 3",)),
        ("cub200", "bounding_boxes.txt", ("6.0", "wide"), ("image 1", "four numbers of pixels")),
        ("cub200", "bounding_boxes.txt", (" 6.0", ""), ("bounding_boxes.txt, line 1", "found 4 values")),
        ("sop", "Ebay_train.txt", ("1 1 2 chair", "1 2 chair"), ("Ebay_train.txt, line 2", "wanted image_id, class_id")),
        ("sop", "Ebay_train.txt", ("chair_final", "../../chair"), ("leaves the data set's folder",)),
        ("sop", "Ebay_test.txt", ("11319 1", "1 1"), ("class '00001' stands in train and in test",)),
        ("inshop", "Eval/list_eval_partition.txt", (" query", " querry"), ("found 'querry', wanted train, query or gallery",)),
        ("inshop", "Eval/list_eval_partition.txt", ("id_00000005 query", "id_00000001 query"), ("'id_00000001' stands in",)),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, name: str, file: str, change: tuple[str, str], parts: tuple[str, ...]) -> None:
    root = MAKERS[name](tmp_path, size=24)
    replaced(root / FOLDERS[name] / file, *change)
    refused(name, root, *parts)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cub200", "image_class_labels.txt"),
        ("cub200", "classes.txt"),
        ("sop", "Ebay_test.txt"),
        ("sop", "Ebay_train.txt"),
        ("inshop", "Eval/list_eval_partition.txt"),
    ],
)
def test_missing_empty_and_binary_lists_are_one_line(tmp_path: Path, name: str, file: str) -> None:
    root = MAKERS[name](tmp_path, classes=4, size=24)
    place = root / FOLDERS[name] / file
    place.write_bytes(b"\xff\xfe\x00")
    refused(name, root, file, "not a text file in UTF-8")
    place.write_text("\n")
    refused(name, root, file, "no rows")
    place.unlink()
    refused(name, root, Path(file).name, "does not exist", "is expected as")


def test_a_folder_of_something_else_names_the_layout(tmp_path: Path) -> None:
    for name in MAKERS:
        refused(name, tmp_path, "is expected as", "ROOT")


def test_all_faults_are_listed_by_prepare_and_counted_when_loading(tmp_path: Path) -> None:
    root = make_sop(tmp_path, size=24)
    file = root / FOLDERS["sop"] / "Ebay_train.txt"
    lines = file.read_text().splitlines()
    lines[2], lines[4] = "nonsense", lines[1]
    file.write_text("\n".join(lines))
    refused("sop", root, "Ebay_train.txt, line 3", "(and 1 more faults: `dmkd prepare sop --root")
    report = check("sop", str(root), decode=False)
    assert len(report.faults) == 2
    assert "stands there twice" in report.faults[1]
    assert report.images == 30
