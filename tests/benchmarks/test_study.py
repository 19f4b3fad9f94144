"""The study of the papers' claims: its statistics against simulation, its plan, its page against the shipped records."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.study.__main__ import RESULTS, TRIALS, points, read, ready
from benchmarks.study.arms import ARMS, EPOCHS, FLATTER, IMAGES, LONG, LONGER
from benchmarks.study.claims import CLAIMS, Claim, Side
from benchmarks.study.emoji import write_manifest
from benchmarks.study.report import PAGE, READING, REFERENCES, judge, page, paired_difference
from benchmarks.study.work import Job, configuration
from dmkd.space import flatten


def simulated(rng, classes=120, seeds=5, gain=0.0):
    """Hits of two arms with a difficulty of each class, a class's own liking for an arm, and a luck of each seed."""
    counts = rng.integers(4, 9, classes).astype(float)
    base, liking = rng.normal(0, 1, classes), rng.normal(0, 0.5, classes)
    arms = []
    for sign in (1, -1):
        luck = rng.normal(0, 0.15, (seeds, 1))
        chance = 1 / (1 + np.exp(-(base + sign * (liking + gain) / 2 + luck)))
        arms.append(rng.binomial(counts.astype(int), chance).astype(float))
    return counts, arms[0], arms[1]


def test_the_interval_covers_a_true_tie_at_its_rate() -> None:
    rng = np.random.default_rng(5)
    found = [paired_difference(*simulated(rng)) for _ in range(600)]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.93 <= covered <= 0.99
    assert {each.verdict for each in found} >= {"undecided"}


def test_the_difference_is_that_of_the_pooled_recalls_and_its_error_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(6)
    counts, better, worse = simulated(rng, gain=0.4)
    found = paired_difference(counts, better, worse)
    assert found.mean == pytest.approx(100 * (better.sum() - worse.sum()) / (5 * counts.sum()))
    drawn = []
    for _ in range(3000):
        some, seeds = rng.integers(0, len(counts), len(counts)), rng.integers(0, 5, 5)
        drawn.append(100 * (better - worse)[np.ix_(seeds, some)].sum() / (5 * counts[some].sum()))
    assert (found.high - found.low) / (2 * 1.98) == pytest.approx(np.std(drawn), rel=0.2)


def test_a_reference_row_without_seeds_leaves_the_classes_spread() -> None:
    counts, better, _ = simulated(np.random.default_rng(7))
    found = paired_difference(counts, better[:1], np.zeros_like(better[:1]))
    assert found.low < found.mean < found.high
    assert found.verdict == "holds"


def test_every_claim_compares_known_rows() -> None:
    known = set(ARMS) | set(REFERENCES)
    assert all({claim.better.arm, claim.worse.arm} <= known for claim in CLAIMS)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_as_much_and_is_tuned_as_often(name: str) -> None:
    config, tried = ARMS[name].config, points(name, ARMS[name], TRIALS)
    assert config.optim.epochs == EPOCHS
    batches = config.method.batches
    assert batches.size * batches.iterations * config.method.views.per_image == IMAGES
    assert len(set(tried)) == TRIALS
    own = flatten(config)
    assert all(own[key] == value for key, value in tried[0])
    for key, where in ARMS[name].ranges.items():
        values = [dict(point)[key] for point in tried[1:]]
        assert all(where.low <= value <= where.high for value in values)
        middle = math.sqrt(where.low * where.high) if where.log else (where.low + where.high) / 2
        assert min(values) < middle < max(values)


def test_finals_come_after_all_trials_and_see_no_validation(tmp_path) -> None:
    records = {
        job.key: {"arm": "none", "stage": "tune", "trial": job.trial, "values": dict(job.values)}
        | ({"failed": "diverged"} if job.trial == 5 else {"metrics": {"val/mean_average_precision_at_r": job.trial}})
        for job in ready({}, ["none"], tmp_path)
        if job.arm == "none" and not job.stage.startswith("flat")
    }
    del records["none/tune/3/0"]
    assert [job.key for job in ready(records, ["none"], tmp_path) if job.stage == "tune" and job.arm == "none"] == [
        "none/tune/3/0"
    ]
    assert not [job for job in ready(records, ["none"], tmp_path) if job.stage == "final" and job.arm == "none"]
    records["none/tune/3/0"] = {"arm": "none", "values": {}, "trial": 3, "metrics": {"val/mean_average_precision_at_r": 0.5}}
    finals = [job for job in ready(records, ["none"], tmp_path) if job.stage == "final"]
    assert [(job.seed, job.values) for job in finals] == [
        (seed, tuple(records["none/tune/7/0"]["values"].items())) for seed in range(5)
    ]
    config = configuration(finals[2], "manifest.csv", tmp_path)
    assert (config.data.validation, config.evaluation.test, config.seed) == (0.0, True, 2)
    assert not configuration(Job("none", "tune", 0, 0), "manifest.csv", tmp_path).evaluation.test


def test_what_learns_from_a_teacher_waits_for_it(tmp_path) -> None:
    assert {job.arm for job in ready({}, ["yu_relative", "none"], tmp_path)} == {"teacher", "none"}
    (tmp_path / "teacher_tune").mkdir()
    waiting = [job.stage for job in ready({}, ["yu_relative"], tmp_path) if job.arm == "yu_relative"]
    assert waiting == ["tune"] * TRIALS + ["flat_tune"] * TRIALS


def test_each_plan_has_reference_rows_of_its_own_teacher(tmp_path) -> None:
    (tmp_path / "teacher_final").mkdir()
    jobs = [job for job in ready({}, [], tmp_path) if job.arm in REFERENCES]
    assert {(job.arm, job.stage) for job in jobs} == {(n, s) for n in REFERENCES for s in ("reference", "flat_reference")}
    counts, better, worse = simulated(np.random.default_rng(4))
    records = {
        f"{arm}/{stage}/0/{seed}": {"arm": arm, "stage": stage, "seed": seed, "hits": {"test": [counts.tolist(), row.tolist()]}}
        for arm, stage, rows in (("a", "flat", better), ("teacher_row", "flat_reference", worse[:1]))
        for seed, row in enumerate(rows)
    } | {"teacher_row/reference/0/0": {"arm": "teacher_row", "stage": "reference", "seed": 0, "hits": {"test": [[], []]}}}
    claim = Claim("paper", "a beats its teacher", Side("a"), Side("teacher_row"))
    assert judge(records, claim, "flat") == paired_difference(counts, better, np.broadcast_to(worse[0], better.shape))


def test_a_cut_line_is_run_again(tmp_path) -> None:
    (tmp_path / "r.jsonl").write_text('{"key": "none/tune/0/0"}\n{"key": "none/tu', encoding="utf-8")
    assert list(read(tmp_path / "r.jsonl")) == ["none/tune/0/0"]


def test_the_page_is_made_from_the_shipped_records() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read(RESULTS), READING.read_text(encoding="utf-8"))


def test_a_manifest_of_drawings_holds_out_whole_classes(tmp_path) -> None:
    root = tmp_path / "emoji"
    names = [f"c{number}" for number in range(300)] + ["t0", "t1"]
    for name in names:
        (root / "images" / name).mkdir(parents=True)
        for style in ("noto", "noto-v1", "twemoji"):
            (root / "images" / name / f"{style}.png").touch()
    rows = [f"{name},{'test' if name.startswith('t') else 'train'}" for name in names]
    (root / "classes.csv").write_text("\n".join(["class,split", *rows]), encoding="utf-8")
    assert write_manifest(root, tmp_path / "out") == 3 * 302
    lines = [line.split(",") for line in (tmp_path / "out" / "manifest.csv").read_text(encoding="utf-8").split()[1:]]
    homes = {name: {split for _, label, _, split in lines if label == name} for name in names}
    assert all(len(home) == 1 for home in homes.values())
    assert sum(home == {"val"} for home in homes.values()) == 276
    assert {group for _, _, group, _ in lines} == {"noto", "twemoji"}
    assert (tmp_path / "out" / lines[0][0]).is_file()


@pytest.mark.parametrize("name", LONG)
def test_the_long_plan_is_the_short_one_stretched(name: str, tmp_path) -> None:
    short, long = (flatten(configuration(Job(name, stage, 0, 1), "manifest.csv", tmp_path)) for stage in ("final", "long"))
    changed = {key: (short[key], long[key]) for key in short if short[key] != long[key]}
    stretched = {"optim.epochs", "evaluation.every"} | ({"method.feature_delay"} if name == "msdf" else set())
    assert set(changed) == stretched
    assert all(after == LONGER * before for before, after in changed.values())


@pytest.mark.parametrize("name", ARMS)
def test_the_longest_plan_lets_the_rate_fall_twice(name: str, tmp_path) -> None:
    short, flat = (flatten(configuration(Job(name, stage, 0, 1), "manifest.csv", tmp_path)) for stage in ("final", "flat"))
    changed = {key: (short[key], flat[key]) for key in short if short[key] != flat[key]}
    epochs = FLATTER * EPOCHS
    assert changed.pop("optim.epochs") == (EPOCHS, epochs)
    assert changed.pop("evaluation.every") == (EPOCHS, epochs)
    assert changed.pop("optim.schedule") == ("cosine", "steps")
    assert changed.pop("optim.milestones") == ((), (2 * epochs // 5, 3 * epochs // 5))
    before, after = changed.pop("method.feature_delay", (0, 0))
    assert after == FLATTER * before
    assert {key: after for key, (_, after) in changed.items()} == {"optim.gamma": 0.1}
    curve = configuration(Job(name, "flat_curve", 0, 1), "manifest.csv", tmp_path)
    assert (curve.evaluation.every, curve.data.validation, curve.evaluation.test) == (FLATTER, 0.2, False)


def test_finals_of_the_longest_plan_have_values_of_its_own_trials(tmp_path) -> None:
    records = {
        f"none/{stage}/{trial}/0": {"arm": "none", "stage": stage, "trial": trial, "values": {"optim.lr": trial / 1000}}
        | {"metrics": {"val/mean_average_precision_at_r": -abs(trial - best)}}
        for stage, best in (("tune", 3), ("flat_tune", 5))
        for trial in range(TRIALS)
    }
    jobs = [job for job in ready(records, ["none"], tmp_path) if job.stage.startswith("flat")]
    assert {(job.stage, job.trial) for job in jobs} == {("flat", 5), ("flat_curve", 5)}
    del records["none/flat_tune/6/0"]
    assert [job.key for job in ready(records, ["none"], tmp_path) if job.stage.startswith("flat")] == ["none/flat_tune/6/0"]


def test_long_finals_come_after_the_tuning_and_stand_beside_the_short_ones(tmp_path) -> None:
    records = {
        f"none/tune/{trial}/0": {"arm": "none", "stage": "tune", "trial": trial, "values": {"optim.lr": trial / 1000}}
        | {"metrics": {"val/mean_average_precision_at_r": -abs(trial - 3)}}
        for trial in range(TRIALS)
    }
    jobs = [job for job in ready(records, ["none"], tmp_path) if job.stage.startswith("long")]
    assert {(job.stage, job.seed, job.trial) for job in jobs} == {(s, n, 3) for s in ("long", "long_curve") for n in range(5)}
    rng = np.random.default_rng(3)
    counts, better, worse = simulated(rng)
    for arm, stage, found in [("a", "final", worse), ("b", "final", worse), ("a", "long", better), ("b", "long", worse)]:
        for seed, row in enumerate(found):
            records[f"{arm}/{stage}/0/{seed}"] = {"arm": arm, "stage": stage, "seed": seed} | {
                "hits": {"test": [counts.tolist(), row.tolist()]}
            }
    claim = Claim("paper", "a beats b", Side("a"), Side("b"))
    assert judge(records, claim).mean == 0
    assert judge(records, claim, "long") == paired_difference(counts, better, worse)
