"""What training is told of its labels, against recounts by hand; validation and test keep theirs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from dmkd.config import Config, config_hash
from dmkd.data import Data
from dmkd.data.labels import labelled, noisy, supervise
from dmkd.data.pictures import Pictures
from dmkd.data.splits import Parts, split
from dmkd.errors import ConfigError, DataError
from dmkd.space import override

COUNTS = [1, 2, 3, 4, 5, 8, 30, 59]


def part(counts: list[int], names: str = "class") -> Pictures:
    labels = np.repeat(np.arange(len(counts)), counts)
    classes = tuple(f"{names} {label}" for label in range(len(counts)))
    paths = tuple(f"{classes[label]}/{number}.jpg" for label, count in enumerate(counts) for number in range(count))
    return Pictures("toy", Path("/nowhere"), paths, labels, classes, sizes=np.ones_like(labels))


def kept(counts: list[int], share: float) -> list[int]:
    made = part(counts)
    return np.bincount(made.labels[labelled(made, Data(labelled=share))], minlength=len(counts)).tolist()


def test_a_class_keeps_its_share_and_two_where_it_has_them() -> None:
    assert kept(COUNTS, 1.0) == COUNTS
    assert kept(COUNTS, 0.5) == [1, 2, 2, 2, 3, 4, 15, 30]
    assert kept(COUNTS, 0.1) == [1, 2, 2, 2, 2, 2, 3, 6]
    assert kept(COUNTS, 1e-6) == [1, 2, 2, 2, 2, 2, 2, 2]


def test_who_is_labelled_is_the_order_of_a_hash() -> None:
    """So nothing else moves it: neither other classes, nor the order of files; and a larger share takes nothing away."""
    made = part(COUNTS)
    digests = [hashlib.sha256(f"3:class 6:class 6/{number}.jpg".encode()).hexdigest() for number in range(30)]
    first = {f"class 6/{number}.jpg" for number in sorted(range(30), key=digests.__getitem__)[:15]}
    keep = labelled(made, Data(labelled=0.5, split_seed=3))
    assert {path for path, own, label in zip(made.paths, keep, made.labels, strict=True) if own and label == 6} == first
    order = np.random.default_rng(0).permutation(np.flatnonzero(made.labels > 3))
    shuffled = made.part(order)
    assert (labelled(shuffled, Data(labelled=0.5, split_seed=3)) == keep[order]).all()
    assert (labelled(made, Data(labelled=0.7, split_seed=3)) >= keep).all()
    assert (labelled(made, Data(labelled=0.5)) != keep).any()


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_noise_is_symmetric(rate: float) -> None:
    labels = np.repeat(np.arange(5), 4000)
    told = noisy(labels, 5, Data(label_noise=rate))
    matrix = np.array([np.bincount(told[labels == label], minlength=5) for label in range(5)])
    for label, row in enumerate(matrix):
        expected = np.where(np.arange(5) == label, 4000 * (1 - rate), 4000 * rate / 4)
        assert chisquare(row, expected).pvalue > 1e-3


def test_noise_is_a_function_of_its_seed_and_less_is_part_of_more() -> None:
    labels = np.repeat(np.arange(6), 50)
    little, much = (noisy(labels, 6, Data(label_noise=rate)) for rate in (0.1, 0.4))
    assert (noisy(labels, 6, Data()) == labels).all()
    assert (noisy(labels, 6, Data(label_noise=0.4, split_seed=5, workers=2)) == much).all()
    assert (noisy(labels, 6, Data(label_noise=0.4, noise_seed=1)) != much).any()
    flipped = little != labels
    assert 0 < flipped.sum() < (much != labels).sum()
    assert (little[flipped] == much[flipped]).all()


def test_use_chooses_pictures_and_changes_neither_draw() -> None:
    made, data = part(COUNTS), Data(labelled=0.5, label_noise=0.3)
    parts = {use: supervise(made, replace(data, use=use)) for use in ("all", "labelled", "unlabelled")}
    everything, told = parts["all"]
    assert everything is made
    assert (told == np.where(labelled(made, data), noisy(made.labels, 8, data), -1)).all()
    for use, mask in (("labelled", told >= 0), ("unlabelled", told < 0)):
        chosen, labels = parts[use]
        assert chosen.paths == tuple(path for path, one in zip(made.paths, mask, strict=True) if one)
        assert (labels == told[mask]).all()
    assert parts["labelled"][0].classes == made.classes
    assert supervise(made, Data(use="labelled"))[0] is made
    with pytest.raises(DataError, match=r"data.labelled=1 withholds .* none of 112 training pictures .*lower data.labelled"):
        supervise(made, Data(use="unlabelled"))


def whole() -> Pictures:
    return part([6] * 20)


def same_test(first: Parts, second: Parts) -> bool:
    pairs = ((first.val, second.val), (first.test, second.test))
    return all(one and other and one.paths == other.paths and (one.labels == other.labels).all() for one, other in pairs)


def test_validation_and_test_are_cut_before_and_keep_their_labels() -> None:
    clean = split(whole(), Data(validation=0.3))
    assert (clean.labels == clean.train.labels).all()
    assert clean.label_counts == {}
    for changes in ({"labelled": 0.5}, {"label_noise": 0.4}, {"labelled": 0.5, "use": "labelled"}):
        parts = split(whole(), Data(validation=0.3, **changes))  # type: ignore[arg-type]
        assert same_test(parts, clean)
        assert parts.fingerprint == clean.fingerprint
        assert len(parts.labels) == len(parts.train)
        assert parts.train.classes == clean.train.classes


def test_what_was_changed_is_counted() -> None:
    parts = split(whole(), Data(validation=0.3, label_noise=0.4, labelled=0.5))
    assert len(parts.train) == 7 * 6
    flipped = sum(told not in (-1, own) for told, own in zip(parts.labels.tolist(), parts.train.labels.tolist(), strict=True))
    assert parts.label_counts == {"data/labels_flipped": flipped, "data/labels_withheld": 7 * 3}
    assert 0 < flipped < 21
    alone = split(whole(), Data(validation=0.3, labelled=0.5, use="unlabelled"))
    assert alone.label_counts == {"data/labels_withheld": 21}


@pytest.mark.parametrize(
    ("key", "value"),
    [("labelled", 0.5), ("use", "labelled"), ("label_noise", 0.2), ("noise_seed", 1), ("degradation", "low_resolution")],
)
def test_another_supervision_is_another_configuration(key: str, value: object) -> None:
    assert config_hash(override(Config(), {f"data.{key}": value})) != config_hash(Config())


@pytest.mark.parametrize(
    ("key", "value"), [("labelled", 0), ("labelled", 1.1), ("label_noise", 1), ("label_noise", -0.1), ("use", "labeled")]
)
def test_what_is_no_share_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"data.{key}"):
        override(Config(), {f"data.{key}": value})
