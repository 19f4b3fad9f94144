"""Which pictures a batch holds: the papers' counts, and naive recounts of what was drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from dmkd.data.batches import Batches
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.samplers import cut_permutations, epoch_length, plan_epoch
from dmkd.data.views import generator
from dmkd.errors import ConfigError, DataError

YU = {"images_per_class": 8, "size": 32, "replacement": False}


def part(counts: list[int]) -> Pictures:
    labels = np.repeat(np.arange(len(counts)), counts)
    classes = tuple(f"class {label}" for label in range(len(counts)))
    paths = tuple(f"{position}.jpg" for position in range(len(labels)))
    return Pictures("toy", Path("/nowhere"), paths, labels, classes, sizes=np.ones_like(labels))


def plan(counts: list[int], batches: Batches, seed: int = 0) -> list[Labels]:
    made = part(counts)
    return plan_epoch(made, batches, made.labels, generator(seed, 0, 0))


@pytest.mark.parametrize(
    ("batches", "images", "classes", "length"),
    [
        (Batches(), 5864, 100, 52),  # CUB, Cars and SOP under Revisiting DML
        (Batches(), 8054, 98, 71),
        (Batches(), 59551, 11318, 531),
        (Batches(**YU), 5864, 100, 25),  # and under Yu
        (Batches(**YU), 8054, 98, 24),
        (Batches(**YU), 59551, 11318, 2829),
        (Batches(kind="plain", size=8, drop_last=False), 20, 5, 3),
        (Batches(kind="plain", size=8), 20, 5, 2),
        (Batches(size=8, iterations=7), 20, 5, 7),
    ],
)
def test_epochs_are_as_long_as_the_papers(batches: Batches, images: int, classes: int, length: int) -> None:
    assert epoch_length(batches, images, classes) == length


def test_epoch_of_tuples() -> None:
    assert epoch_length(Batches(kind="tuples", size=5), 100, 3, tuples=2000) == 400


def test_no_whole_batch_is_said_with_the_numbers() -> None:
    with pytest.raises(DataError, match=r"60 training pictures, 112 wanted .* lower it"):
        epoch_length(Batches(), 60, 6)
    with pytest.raises(DataError, match="3 training classes, 4 wanted"):
        epoch_length(Batches(**YU), 60, 3)
    with pytest.raises(DataError, match="3 training things"):
        plan([9, 9, 9], Batches(**YU, iterations=2))
    with pytest.raises(ConfigError, match=r"found 10, wanted a multiple of .*4"):
        plan([9] * 9, Batches(size=10, images_per_class=4))


def test_with_replacement_classes_and_images_are_uniform_and_may_repeat() -> None:
    counts = [2, 5, 3, 10]
    labels = np.repeat(np.arange(4), counts)
    batches = plan(counts, Batches(size=12, images_per_class=3, iterations=1500))
    assert len(batches) == 1500
    drawn: Counter[int] = Counter()
    repeated_image = repeated_class = 0
    for batch in batches:
        groups = batch.reshape(4, 3)
        for group in groups.tolist():
            assert len({labels[position] for position in group}) == 1
            repeated_image += len(set(group)) < 3
        repeated_class += len({labels[group[0]] for group in groups.tolist()}) < 4
        drawn.update(batch.tolist())
    assert repeated_image > 0
    assert repeated_class > 0
    expected = [1500 * 12 / 4 / counts[label] for label in labels]
    # Draws of one class come three at a time, which widens the spread: compare classes by thirds, then pictures within a class.
    classes = [sum(drawn[position] for position in np.flatnonzero(labels == label)) / 3 for label in range(4)]
    assert chisquare(classes).pvalue > 1e-3
    assert max(abs(drawn[position] / expected[position] - 1) for position in range(20)) < 0.15


def test_with_replacement_a_class_of_one_picture_repeats_it() -> None:
    batches = plan([1, 1], Batches(size=4, iterations=3))
    assert all(len(set(batch[:2].tolist())) == 1 for batch in batches)


def test_without_replacement_one_pass_holds_every_class_once() -> None:
    counts = [8, 9, 20, 8, 30, 11, 8, 8, 12]
    labels = np.repeat(np.arange(9), counts)
    batches = plan(counts, Batches(**YU))
    assert [len(batch) for batch in batches] == [32, 32]
    seen = [int(labels[position]) for batch in batches for position in batch.tolist()]
    assert sorted(Counter(seen).values()) == [8] * 8
    assert len({position for batch in batches for position in batch.tolist()}) == 64


def test_without_replacement_a_small_class_repeats_pictures() -> None:
    batch = plan([3, 3, 3, 3], Batches(**YU))[0]
    assert len(batch) == 32
    assert 4 < len(set(batch.tolist())) <= 12


def test_without_replacement_a_class_of_one_picture_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"class 'class 1' has one picture \(8.jpg\).*replacement=true") as caught:
        plan([8, 1, 8, 8], Batches(**YU))
    assert "\n" not in str(caught.value)


def test_a_longer_epoch_starts_new_permutations_and_never_joins_two() -> None:
    cuts = cut_permutations(7, 3, 6, True, generator(1))
    assert [len(set(cut.tolist())) for cut in cuts] == [3] * 6
    for first, second in zip(cuts[::2], cuts[1::2], strict=True):
        assert not set(first.tolist()) & set(second.tolist())
    rest = cut_permutations(7, 3, 3, False, generator(1))
    assert sorted(np.concatenate(rest).tolist()) == list(range(7))


def test_plain_is_a_permutation() -> None:
    batches = plan([5, 5, 5], Batches(kind="plain", size=5))
    assert sorted(np.concatenate(batches).tolist()) == list(range(15))


def half_withheld(counts: list[int]) -> tuple[Pictures, Labels]:
    made = part(counts)
    labels = made.labels.copy()
    labels[::2] = -1
    return made, labels


@pytest.mark.parametrize(
    ("share", "counts", "groups"), [(None, [4] * 6, 3), (0.3, [4] * 6, 2), (0.01, [4] * 6, 1), (0.99, [4] * 6, 4)]
)
@pytest.mark.parametrize("replacement", [True, False])
def test_a_batch_holds_both_labelled_groups_and_pictures_without_a_label(
    share: float | None, counts: list[int], groups: int, replacement: bool
) -> None:
    """Of 6 groups of 2, `groups` are blind: 3 of 6 for half the pictures, at least 1, at most all but 2."""
    made, labels = half_withheld(counts)
    batches = Batches(size=12, iterations=60, unlabelled=share, replacement=replacement)
    drawn: Counter[int] = Counter()
    for batch in plan_epoch(made, batches, labels, generator(0)):
        known, hidden = batch[: 12 - 2 * groups], batch[12 - 2 * groups :]
        assert (labels[known] >= 0).all()
        assert (labels[hidden] == -1).all()
        assert (labels[known[::2]] == labels[known[1::2]]).all()
        if not replacement:
            assert len(set(batch.tolist())) == 12
        drawn.update(hidden.tolist())
    # Blind to the class: uniform over the 12 pictures without a label.
    assert set(drawn) == set(range(0, 24, 2))
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_withheld_labels_in_other_batches() -> None:
    made, labels = half_withheld([4, 4, 4])
    plain = plan_epoch(made, Batches(kind="plain", size=12), labels, generator(0))
    assert set(plain[0].tolist()) == set(range(12))
    none = plan_epoch(made, Batches(size=4, iterations=50, unlabelled=0.0), labels, generator(0))
    assert set(np.concatenate(none).tolist()) == {1, 3, 5, 7, 9, 11}
    with pytest.raises(ConfigError, match=r"2 classes x 2 pictures leave no room .*unlabelled=0"):
        plan_epoch(made, Batches(size=4), labels, generator(0))
    # Nothing is labelled: whole batches of pictures without a label, as many as always.
    all_hidden = plan_epoch(made, Batches(**YU, iterations=3), np.full(12, -1), generator(0))
    assert [len(batch) for batch in all_hidden] == [32] * 3
    blind = plan_epoch(made, Batches(size=6, replacement=False), np.full(12, -1), generator(0))
    assert [len(set(batch.tolist())) for batch in blind] == [6]


def test_as_many_steps_whatever_is_withheld() -> None:
    made, labels = half_withheld([8] * 12)
    for batches in (Batches(size=12), Batches(size=12, replacement=False)):
        lengths = [len(plan_epoch(made, batches, told, generator(0))) for told in (made.labels, labels)]
        assert lengths[0] == lengths[1] > 0


def test_classes_that_noise_has_emptied_are_passed_over() -> None:
    made = part([2, 2, 2, 2])
    told = np.array([0, 0, 2, 2, 2, 2, 0, 3])
    for replacement, classes in ((True, {0, 2, 3}), (False, {0, 2})):
        batches = Batches(size=4, iterations=40, replacement=replacement)
        planned = plan_epoch(made, batches, told, generator(0))
        assert {int(told[position]) for batch in planned for position in batch} == classes


def test_plans_are_functions_of_their_key() -> None:
    first, again, other = (np.concatenate(plan([6] * 9, Batches(size=18), seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
