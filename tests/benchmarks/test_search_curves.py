"""The recorded grid is what its page says, the replay's arithmetic is right, and the shortcut of the recorder changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy.stats import spearmanr

from benchmarks.search.grid import EPOCHS, GRIDS, Point, read
from benchmarks.search.landscape import Landscape, curves
from benchmarks.search.replay import Arm, Replay, until
from benchmarks.search.report import DOCS, agreement, first_agreeing, load, noise, page, ratio
from benchmarks.search.sources import NOISE, half_points, toned_points, warm_points


def test_the_shipped_grid_is_large_enough_and_its_range_far_beyond_the_noise():
    known = curves("obd_sd")
    assert len(known) >= 300
    assert {len(scores) for scores in known.values()} == {EPOCHS}
    assert EPOCHS >= 15
    spread, width, repeated = noise("obd_sd")
    assert repeated >= 10
    assert width > 5 * spread > 0
    searched = {"method.weight", "method.temperature", "method.diffusion.omega", "student.resolution", "optim.lr"}
    assert set(GRIDS["obd_sd"]) == searched


def test_between_recorded_levels_curves_are_interpolated_in_the_logarithm():
    known = curves("obd_sd")
    landscape, keys = Landscape("obd_sd", known), list(GRIDS["obd_sd"])
    for levels in list(known)[::37]:
        assert landscape(dict(zip(keys, levels, strict=True))) == pytest.approx(known[levels])
    low, high = (1e-4, 10.0, 0.2, 0.3, 48), (1e-3, 10.0, 0.2, 0.3, 48)
    between = landscape(dict(zip(keys, (10**-3.25, *low[1:]), strict=True)))
    assert between == pytest.approx([0.25 * a + 0.75 * b for a, b in zip(known[low], known[high], strict=True)])


def test_a_replay_counts_every_epoch_once_and_knows_the_best_finished_trial(tmp_path: Path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = Landscape("obd_sd", curves("obd_sd"))
    everything = Replay("obd_sd", Arm("random"), 3, known).run(tmp_path, -1.0)
    assert everything.epochs >= 40 * EPOCHS
    assert [epochs for epochs, _ in everything.best][:4] == [EPOCHS * 4 - 3, EPOCHS * 4 - 2, EPOCHS * 4 - 1, EPOCHS * 4]
    assert max(best for _, best in everything.best) <= max(scores[-1] for scores in curves("obd_sd").values())
    assert [best for _, best in everything.best] == sorted(best for _, best in everything.best)
    assert until(everything, everything.best[-1][1]) == next(e for e, best in everything.best if best == everything.best[-1][1])
    assert until(everything, 2.0) == math.inf
    stopped = Replay("obd_sd", Arm("random", grace=4), 3, known).run(tmp_path, -1.0)
    assert len(stopped.best) < len(everything.best)  # the same epochs, fewer of them in trials that ran to their end


def test_warm_points_come_from_the_other_method_and_lie_inside_the_space():
    points = warm_points(0)
    assert 1 <= len(points) <= 5
    assert all(set(point) <= set(GRIDS["obd_sd"]) and "optim.lr" in point for point in points)


def test_warm_points_of_the_same_method_hold_every_key_and_differ_by_seed():
    space = set(GRIDS["obd_sd"])
    for source in (half_points, toned_points):
        points = source(0)
        assert len(points) == 5
        assert all(set(point) == space for point in points)
        assert source(0) == points != source(1)
    assert noise("obd_sd")[0] == pytest.approx(NOISE, abs=5e-5)
    known = Landscape("obd_sd", curves("obd_sd"))
    # They were chosen by scores: better than points at random, by the final scores that the choice did not see.
    chosen = np.mean([known(point)[-1] for seed in range(10) for point in half_points(seed)])
    assert chosen > np.mean([scores[-1] for scores in curves("obd_sd").values()]) + 0.02


def test_agreement_and_ratio_against_their_definitions():
    table = np.array(list(curves("obd_sd").values()))
    found = agreement("obd_sd")
    assert found[5][0] == pytest.approx(spearmanr(table[:, 4], table[:, -1]).statistic)
    assert found[EPOCHS] == (pytest.approx(1.0), pytest.approx(1.0), 1.0)
    assert first_agreeing({1: (0.9, 0.9, 1), 2: (0.7, 0.9, 1), 3: (0.8, 0.81, 1)}) == 3
    middle, low, high = ratio([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    assert middle == 0.5
    assert 0.25 <= low < 0.5 < high <= 0.75


def test_the_page_is_what_the_records_say():
    assert (DOCS / "search.md").read_text(encoding="utf-8") == page(load())
    assert "<<" not in page(load())


@pytest.mark.slow
def test_looking_up_the_frozen_backbone_changes_no_number_beyond_rounding(tmp_path: Path):
    """Three epochs of a recorded configuration by the trainer as it is, pictures and all."""
    from dmkd.trainer import fit

    record = next(one for one in read().values() if one["method"] == "obd_sd" and one["values"]["student.resolution"] == 32)
    point = Point("obd_sd", tuple(record["values"].items()))
    epochs = fit(point.config(), device="cpu")
    scores = [next(epochs).metrics["val/map"] for _ in range(3)]
    assert scores == pytest.approx(record["val/map"][:3], abs=0.01)
