"""Class-disjoint parts and folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dmkd.data import Data
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.splits import Parts, class_order, split
from dmkd.errors import DataError
from tests.pictures import make_folder, make_manifest


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return load_dataset(Data(root=str(make_folder(tmp_path_factory.mktemp("signs"), classes=21, size=24))))


def classes(part: Pictures | None) -> set[str]:
    return set() if part is None else set(part.classes)


def test_parts_are_disjoint_and_whole(signs: Pictures) -> None:
    parts = split(signs, Data(validation=0.3))
    train, val, test = map(classes, (parts.train, parts.val, parts.test))
    assert (len(train), len(val), len(test)) == (7, 3, 11)
    assert train | val | test == set(signs.classes)
    assert test == set(signs.classes[10:])
    assert all(len(part) == 2 * len(part.classes) for part in (parts.train, parts.val, parts.test) if part)


def test_validation_0_trains_on_all(signs: Pictures) -> None:
    for data in (Data(validation=0), Data(validation=0, folds=3)):
        parts = split(signs, data)
        assert parts.val is None
        assert classes(parts.train) == set(signs.classes[:10])


def test_the_draw_depends_on_the_split_seed_alone(signs: Pictures) -> None:
    data = Data(validation=0.3)
    assert split(signs, data).fingerprint == split(signs, replace(data, workers=2, crop_ratio=0.5)).fingerprint
    drawn = {frozenset(classes(split(signs, replace(data, split_seed=seed)).val)) for seed in range(12)}
    assert len(drawn) > 8
    assert len({split(signs, replace(data, split_seed=seed)).fingerprint for seed in range(12)}) == len(drawn)
    assert len({split(signs, replace(data, split_seed=seed)).test.fingerprint for seed in range(12)}) == 1  # type: ignore[union-attr]


def test_class_order_is_a_stable_permutation() -> None:
    assert sorted(class_order(list("abcdefgh"), 3)) == list(range(8))
    # Written down once: another order would silently change every user's validation classes.
    assert class_order(list("abcdefgh"), 0) == [7, 5, 6, 3, 0, 2, 1, 4]


def test_folds_partition_the_training_classes(signs: Pictures) -> None:
    folds: list[Parts] = [split(signs, Data(folds=4, fold=fold)) for fold in range(4)]
    held = [classes(parts.val) for parts in folds]
    assert set().union(*held) == set(signs.classes[:10])
    assert sum(map(len, held)) == 10
    assert sorted(map(len, held)) == [2, 2, 3, 3]
    for parts in folds:
        assert classes(parts.train) | classes(parts.val) == set(signs.classes[:10])
        assert not classes(parts.train) & classes(parts.val)


def test_max_classes_keeps_the_first_of_both(signs: Pictures) -> None:
    parts = split(signs, Data(max_classes=6, validation=0.34))
    assert classes(parts.train) | classes(parts.val) == set(signs.classes[:6])
    assert len(classes(parts.val)) == 2
    assert classes(parts.test) == set(signs.classes[10:16])


def test_a_manifests_own_split(tmp_path: Path) -> None:
    file = make_manifest(tmp_path, classes=8, size=24)
    text = file.read_text()
    for label in ("class_000", "class_004"):
        text = "\n".join(line.replace(",train", ",val") if f",{label}," in line else line for line in text.splitlines())
    file.write_text(text + "\n")
    pictures = load_dataset(Data(name="manifest", root=str(file)))
    parts = split(pictures, Data(validation=0.5))
    assert classes(parts.val) == {"class_000", "class_004"}
    assert classes(parts.train) == {"class_002", "class_006"}
    assert classes(parts.test) == {"class_001", "class_003", "class_005", "class_007"}
    assert classes(split(pictures, Data(validation=0)).train) == {"class_000", "class_002", "class_004", "class_006"}
    file.write_text(file.read_text().replace(",test", ",train"))
    assert split(load_dataset(Data(name="manifest", root=str(file))), Data()).test is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(validation=0.1), "9 training, 1 validation"),
        (Data(validation=0.95), "0 training, 10 validation"),
        (Data(folds=10), "data.folds=10"),
        (Data(folds=1), "data.folds: found 1"),
        (Data(folds=3, fold=3), r"data.fold: found 3, wanted 0 .. 2"),
        (Data(max_classes=1), "1 training, 0 validation and 1 test"),
    ],
)
def test_too_few_classes(signs: Pictures, data: Data, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split(signs, data)
    assert "\n" not in str(caught.value)


def test_one_class_alone(tmp_path: Path) -> None:
    pictures = load_dataset(Data(root=str(make_folder(tmp_path, classes=1, size=24))))
    with pytest.raises(DataError, match="0 training"):
        split(pictures, Data(validation=0))


def test_sorted_validation_is_the_second_half_of_the_training_classes(signs: Pictures) -> None:
    """RAML: half and half of them, in the data set's order (spec, CUB 50/50)."""
    parts = split(signs, Data(validation=0.5, validation_order="sorted"))
    assert classes(parts.train) == set(signs.classes[:5])
    assert classes(parts.val) == set(signs.classes[5:10])
    assert classes(parts.test) == set(signs.classes[10:])
    assert classes(split(signs, Data(validation=0.2, validation_order="sorted", split_seed=9)).val) == set(signs.classes[8:10])
    held = [classes(split(signs, Data(folds=4, fold=fold, validation_order="sorted")).val) for fold in range(4)]
    assert set().union(*held) == set(signs.classes[:10])
    assert sum(map(len, held)) == 10


def test_a_class_in_two_parts_of_a_data_sets_own_split_is_refused(signs: Pictures) -> None:
    listed = replace(signs, split=tuple("train" if position % 3 else "test" for position in range(len(signs))))
    with pytest.raises(DataError, match="class 'class_000' stands in test and in train"):
        split(listed, Data())
