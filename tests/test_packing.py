"""The packing of a GPU on given numbers, against trying every choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmkd.errors import ConfigError
from dmkd.packing import RESERVE, WORTH, Probe, choose_packing


def probes(speeds: dict[int, float], memory: float = 4000) -> dict[int, Probe]:
    return {count: Probe(speed, memory) for count, speed in speeds.items()}


def test_the_fastest_that_fits_is_chosen() -> None:
    measured = probes({1: 400, 2: 760, 3: 980, 4: 1100})
    chosen = choose_packing(measured, 80_000)
    assert (chosen.trials, chosen.speedup) == (4, 2.75)
    assert chosen.gpus_per_trial == 0.25
    assert choose_packing(measured, 14_000).trials == 3  # 12,600 to be had
    assert choose_packing(measured, 9_000).trials == 2
    assert choose_packing(measured, 5_000).trials == 1


def test_what_is_hardly_faster_is_not_worth_a_trial_and_a_slump_is_passed_over() -> None:
    assert choose_packing(probes({1: 400, 2: 415, 4: 405}), 80_000).trials == 1
    assert choose_packing(probes({1: 400, 2: 390, 4: 800}), 80_000).trials == 4


@given(
    st.dictionaries(st.integers(2, 8), st.tuples(st.floats(1, 1e4), st.floats(1, 1e5)), max_size=5),
    st.floats(1, 1e4),
    st.floats(2e4, 1e5),
)
def test_the_choice_fits_and_none_that_fits_is_much_faster(
    more: dict[int, tuple[float, float]], alone: float, memory: float
) -> None:
    measured = {1: Probe(alone, 1e4)} | {count: Probe(*found) for count, found in more.items()}
    chosen = choose_packing(measured, memory)
    room = (1 - RESERVE) * memory
    assert chosen.trials * measured[chosen.trials].memory_mb <= room
    assert chosen.memory_share * chosen.trials == pytest.approx(1 - RESERVE)
    assert chosen.trials * chosen.gpus_per_trial <= 1
    for count, probe in measured.items():
        if count * probe.memory_mb <= room:
            assert probe.images_per_second < WORTH * measured[chosen.trials].images_per_second or count == chosen.trials


@pytest.mark.parametrize(
    ("measured", "memory", "reason"),
    [
        ({2: Probe(1, 1)}, 1e4, "wanted one alone"),
        ({1: Probe(0, 1)}, 1e4, "wanted positive numbers"),
        ({1: Probe(float("nan"), 1)}, 1e4, "wanted positive numbers"),
        ({1: Probe(10, 9_500)}, 1e4, "one trial takes 9500 MB"),
    ],
)
def test_numbers_that_say_nothing_are_refused(measured: dict[int, Probe], memory: float, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        choose_packing(measured, memory)
