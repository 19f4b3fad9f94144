"""A folder per class and a CSV manifest: what is read, and what is refused in one line."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import polars
import pytest
from torchvision.datasets import ImageFolder

from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.errors import DataError
from tests.pictures import make_folder, make_manifest


def refused(data: Data, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(data)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_folder_agrees_with_torchvision(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "signs", classes=5, per_class=3, size=32)
    theirs, ours = ImageFolder(root), load_dataset(Data(root=str(root)))
    assert [(str(root / path), label) for path, label in zip(ours.paths, ours.labels.tolist(), strict=True)] == theirs.samples
    assert list(ours.classes) == theirs.classes
    assert ours.groups is None
    assert ours.split is None


def test_folder_passes_over_litter(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=3, size=32)
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "README.txt").write_text("hello")
    (root / "class_000" / ".DS_Store").write_text("x")
    (root / "class_000" / "Thumbs.db").write_text("x")
    assert len(load_dataset(Data(root=str(root)))) == 6


def test_folder_refusals(tmp_path: Path) -> None:
    refused(Data(root=str(tmp_path / "nowhere")), str(tmp_path / "nowhere"), "does not exist", "ROOT/<class>/")
    refused(Data(root=str(tmp_path)), "no class folders in", str(tmp_path))
    root = make_folder(tmp_path / "a", classes=2, size=32)
    (root / "empty").mkdir()
    refused(Data(root=str(root)), "no pictures", "empty")
    (root / "empty").rmdir()
    shutil.copy(root / "class_000" / "0-openmoji.png", root / "stray.png")
    refused(Data(root=str(root)), "stray.png", "outside any class folder")
    (root / "stray.png").unlink()
    (root / "class_000" / "deeper").mkdir()
    refused(Data(root=str(root)), "deeper", "manifest")
    refused(Data(root=str(root / "class_001" / "0-openmoji.png")), "not a folder")


def test_manifest(tmp_path: Path) -> None:
    file = make_manifest(tmp_path, classes=4, size=32)
    for root in (file, tmp_path):
        pictures = load_dataset(Data(name="manifest", root=str(root)))
        assert pictures.groups is not None
        assert pictures.groups.tolist() == [0, 1] * 4
        assert pictures.split == ("train", "train", "test", "test") * 2
        assert pictures.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert (pictures.root / pictures.paths[0]).is_file()


def test_manifest_without_options_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = make_manifest(tmp_path, classes=4, size=32, group=False, split=False)
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    pictures = load_dataset(Data(name="manifest", root=str(file)))
    assert pictures.groups is None
    assert pictures.split is None


def _edit(file: Path, row: int, column: str, value: str) -> None:
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[row][column] = value
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("row", "column", "value", "parts"),
    [
        (1, "path", "images/class_000/0-openmoji.png", ("line 3", "already stands in line 2")),
        (1, "path", "../secret.png", ("leaves the data set's folder",)),
        (1, "path", "/etc/passwd.png", ("leaves the data set's folder",)),
        (1, "path", "images/none.png", ("1 of 8 pictures are missing", "images/none.png", "dmkd prepare manifest")),
        (1, "class", "", ("line 3", "class is empty")),
        (2, "group", " ", ("line 4", "group is empty")),
        (1, "split", "trian", ("line 3", "did you mean 'train'")),
        (1, "split", "test", ("line 3", "class 'class_000' is in train and in test")),
    ],
)
def test_manifest_refusals_of_a_row(tmp_path: Path, row: int, column: str, value: str, parts: tuple[str, ...]) -> None:
    file = make_manifest(tmp_path, classes=4, size=32)
    _edit(file, row, column, value)
    refused(Data(name="manifest", root=str(file)), *parts)


def with_boxes(root: Path, boxes: list[str]) -> Path:
    """A manifest whose rows end with these boxes ("x,y,width,height")."""
    file = make_manifest(root, classes=4, size=32)
    head, *rows = file.read_text().splitlines()
    made = [f"{row},{box}" for row, box in zip(rows, boxes + [",,,"] * (len(rows) - len(boxes)), strict=True)]
    file.write_text("\n".join([f"{head},x,y,width,height", *made]) + "\n")
    return file


def test_manifest_with_boxes(tmp_path: Path) -> None:
    file = with_boxes(tmp_path, ["1,2,20,10", "60.0,27.4,3.6,1.0", ",,,"])
    boxes = load_dataset(Data(name="manifest", root=str(file))).boxes
    assert boxes is not None
    assert boxes.tolist() == [[1, 2, 20, 10], [60, 27, 4, 1], *[[0, 0, 0, 0]] * 6]
    plain = make_manifest(tmp_path / "plain", classes=4, size=32)
    assert load_dataset(Data(name="manifest", root=str(plain))).boxes is None


@pytest.mark.parametrize(
    ("box", "parts"),
    [
        ("1,2,,4", ("line 3", "width=''", "four numbers of pixels, or four empty values")),
        ("1,2,wide,4", ("line 3", "width='wide'")),
        ("1,2,nan,4", ("line 3", "width='nan'")),
        ("1,2,inf,4", ("line 3", "width='inf'")),
        ("-1,2,3,4", ("line 3", "x=-1", "of at least 0")),
        ("1,2,3,0", ("line 3", "height=0", "at least 1 pixel")),
    ],
)
def test_manifest_refusals_of_a_box(tmp_path: Path, box: str, parts: tuple[str, ...]) -> None:
    refused(Data(name="manifest", root=str(with_boxes(tmp_path, ["1,2,3,4", box]))), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("no column path and class", "path, class, group, split, x, y, width, height", "all but the first two optional")),
        ("path,class,x,width\na.png,x,1,2\n", ("found the columns x, width", "all of x, y, width, height")),
        ("path,class\n", ("no rows below the header",)),
        ("path,class\n\n\n../a.png,x\n", ("line 4", "leaves the data set's folder")),
        ("path,class,label\na.png,x,x\n", ("column 'class' stands there twice (label is class)",)),
        ("path,klass\na.png,x\n", ("unknown column 'klass'", "did you mean 'class'")),
        ("path,class,class\na.png,x,x\n", ("twice",)),
        ("path,class\na.png\n", ("line 2", "found 1 values, wanted 2")),
        ('path,class\n"a.png,x\n', ("not readable as CSV",)),
    ],
)
def test_manifest_refusals_of_the_file(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    (tmp_path / "m.csv").write_text(text)
    refused(Data(name="manifest", root=str(tmp_path / "m.csv")), *parts)


def test_manifest_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    refused(Data(name="manifest", root=str(tmp_path)), "manifest.csv", "does not exist")
    (tmp_path / "m.csv").write_bytes(b"path,class\n\xff\xfe,x\n")
    refused(Data(name="manifest", root=str(tmp_path / "m.csv")), "UTF-8")


def test_a_parquet_manifest_is_the_same_as_a_csv(tmp_path: Path) -> None:
    file = make_manifest(tmp_path, classes=4, size=32)
    expected = load_dataset(Data(name="manifest", root=str(file)))
    table = polars.read_csv(file).rename({"class": "label"})
    table = table.with_columns(*(polars.lit(value).alias(name) for name, value in zip("xy", (1, 2), strict=True)))
    table = table.with_columns(polars.lit(3.4).alias("width"), polars.Series("height", [4.0, *[4.0] * 7]))
    table.write_parquet(tmp_path / "manifest.parquet")
    file.unlink()
    found = load_dataset(Data(name="manifest", root=str(tmp_path)))
    assert found.fingerprint == expected.fingerprint
    assert found.boxes is not None
    assert found.boxes.tolist() == [[1, 2, 3, 4]] * 8
    table[1:].with_columns(polars.lit(None).alias("label")).write_parquet(tmp_path / "bad.parquet")
    refused(Data(name="manifest", root=str(tmp_path / "bad.parquet")), "bad.parquet, row 1: class is empty", "and 6 more faults")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    refused(Data(name="manifest", root=str(tmp_path / "bad.parquet")), "not readable as Parquet")


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,class\n\na.png,x\n\n\nb.png,\n")
    refused(Data(name="manifest", root=str(tmp_path / "m.csv")), "line 6: class is empty")


def test_upper_case_suffixes_names_in_any_script_and_links(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real", classes=4, size=32)
    (root / "class_000").rename(root / "Étourneau 椋鳥 \U0001f426")
    first = root / "class_001" / "0-openmoji.png"
    first.rename(first.with_suffix(".PNG"))
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in root.iterdir():
        (linked / folder.name).symlink_to(folder)
    pictures = load_dataset(Data(root=str(linked)))
    assert len(pictures) == 8
    assert pictures.classes[-1] == "Étourneau 椋鳥 \U0001f426"
    assert "class_001/0-openmoji.PNG" in pictures.paths
    assert pictures.fingerprint == load_dataset(Data(root=str(root))).fingerprint
    (linked / "class_001").unlink()
    (linked / "class_001").mkdir()
    (linked / "class_001" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    refused(Data(root=str(linked)), "1 of 7 pictures are missing", "class_001/gone.png")
