"""What keeps its checkpoint and what does not, on a real tracker; and disk that 200 trials do not fill."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.experiment import Trial

from dmkd.checkpoint import save_state
from dmkd.cli import main
from dmkd.config import Config
from dmkd.models.saved import load_model
from dmkd.run import save_checkpoint
from dmkd.trainer import fit
from sweeps.folder import write_progress
from sweeps.places import Places
from sweeps.retention import Ended, Retention, drop, find_waste, overtaken, release, size
from tracking.registry import promote
from tracking.runs import find_run, log_run, start_run

BYTES = 10_000
OBJECTIVE = "val/recall_at_1"


def make_checkpoint(folder: Path) -> Path:
    import hashlib

    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.zeros(BYTES // 4)}, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"checksums": {"weights.safetensors": digest}}))
    return folder


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), max_size=30), st.integers(1, 5))
def test_the_best_rows_and_trial_0_are_never_overtaken(trials: list[tuple[float, int]], best: int) -> None:
    ended = {f"trial-{n:04d}": Ended(f"trial-{n:04d}", value, str(row)) for n, (value, row) in enumerate(trials)}
    gone = overtaken(ended, best)
    assert "trial-0000" not in gone
    # Naive: a row's best trial is kept if fewer than `best` other rows are better.
    for key, trial in ended.items():
        rank = sorted(ended.values(), key=lambda one: (-one.value, one.key)).index(trial)
        before = {one.configuration for one in sorted(ended.values(), key=lambda one: (-one.value, one.key))[:rank]}
        assert (key in gone) == (key != "trial-0000" and (trial.configuration in before or len(before) >= best))


def a_sweep(folder: Path, uri: str, trials: int, finished: bool = True) -> dict[str, str]:
    """A sweep as it lies on disk and in the tracker: a search of which trial 2 is the best, a final stage. {key: run id}."""
    ids = {}
    parent = start_run(uri, "set/mine", "mine", key="mine-1/sweep", params={}, tags={"dmkd.stage": "sweep"})
    assert parent.id
    jobs = [(f"trial-{n:04d}", {"dmkd.stage": "search", "dmkd.trial": str(n), "dmkd.row": f"row{n}"}) for n in range(trials)]
    jobs += [(f"final-row{n}-seed0", {"dmkd.stage": "final", "dmkd.row": f"row{n}"}) for n in (0, 2)]
    for key, tags in jobs:
        place = folder / "mine" / "trials" / key
        make_checkpoint(place / "checkpoint")
        (place / "done.json").write_text("{}")
        with log_run(uri, "set/mine", key, params={"x": 1}, tags=tags, parent_id=parent.id, key=f"mine-1/{key}") as run:
            run.log({OBJECTIVE: 0.5}, step=1)
            run.log_artifact(place / "checkpoint")
        ids[key] = str(run.id)
    (folder / "mine" / "sweep.json").write_text(json.dumps({"id": "mine-1", "finished": finished}))
    parent.finish("FINISHED" if finished else "KILLED")
    return ids


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DMKD_STATE", str(tmp_path / "state"))
    return f"sqlite:///{tmp_path}/mlflow.db"


def artifacts(uri: str, run_id: str) -> list[str]:
    from tracking.client import connect

    return [item.path for item in connect(uri).list_artifacts(run_id, "checkpoint")]


def test_gc_shows_first_and_frees_what_no_row_and_no_version_needs(tmp_path: Path, uri: str, capsys: Any) -> None:
    storage = tmp_path / "out"
    ids = a_sweep(storage, uri, 5)
    promote(ids["trial-0003"], "kept", uri=uri)
    asked = ["gc", "--storage", str(storage), "--tracking-uri", uri]
    main(asked)
    shown = capsys.readouterr().out
    # Trials 0 and 2 were taken up by the final stage, trial 3 is registered: 1 and 4 are left, here and in the tracker.
    assert "in 4 places could be freed: dmkd gc --apply does it" in shown
    assert all(artifacts(uri, run_id) for run_id in ids.values())
    main([*asked, "--apply"])
    assert "freed in 4 places" in capsys.readouterr().out
    gone = {"trial-0001", "trial-0004"}
    assert {key for key, run_id in ids.items() if not artifacts(uri, run_id)} == gone
    assert {key for key in ids if not (storage / "mine" / "trials" / key / "checkpoint").exists()} == gone
    from tracking.client import connect

    freed = connect(uri).get_run(ids["trial-0001"])
    assert freed.data.metrics == {OBJECTIVE: 0.5}
    assert freed.data.tags["dmkd.checkpoint"].startswith("freed")
    main(asked)
    assert "nothing to free" in capsys.readouterr().out


def test_a_sweep_that_is_not_finished_is_left_alone(tmp_path: Path, uri: str) -> None:
    a_sweep(tmp_path / "out", uri, 3, finished=False)
    assert find_waste(tmp_path / "out", uri) == []


def test_without_a_tracker_gc_deletes_nothing(tmp_path: Path, capsys: Any) -> None:
    make_checkpoint(tmp_path / "mine" / "trials" / "trial-0001" / "checkpoint")
    (tmp_path / "mine" / "sweep.json").write_text(json.dumps({"id": "mine-1", "finished": True}))
    with pytest.raises(SystemExit):
        main(["gc", "--apply", "--storage", str(tmp_path), "--tracking-uri", "http://127.0.0.1:9"])
    assert "does not answer" in capsys.readouterr().err
    assert (tmp_path / "mine" / "trials" / "trial-0001" / "checkpoint").exists()


def write_trial(settings: Config, folder: Path) -> int:
    """What a trial leaves on disk, by the trainer's own writers; how many bytes it held at most."""
    most = 0
    for epoch in fit(settings):
        save_checkpoint(epoch, settings, folder / "checkpoint")
        save_state(epoch.state, folder / "state")
        write_progress(folder, {"epoch": epoch.number})
        most = max(most, size(folder))
    shutil.rmtree(folder / "state")
    return most


@pytest.mark.parametrize("order", ["random", "each better than the last"])
def test_disk_use_is_bounded_over_200_trials(tmp_path: Path, teacher: Config, order: str) -> None:
    """Three keep theirs, trial 0 too, and one is being written: never more, whatever the order of the scores.

    Tune's own trials; each leaves what the trainer wrote for one of them.
    """
    written = tmp_path.with_name(f"{tmp_path.name}-written")
    one = write_trial(teacher, written)
    scores = [random.Random(0).random() for _ in range(200)]
    scores = sorted(scores) if order != "random" else scores
    done = []

    def forget(key: str) -> None:
        drop(tmp_path / key)
        done.append(key)

    kept = Retention(OBJECTIVE, epochs=2, best=3, ended={}, name=str, release=forget)
    peak = 0
    for number, score in enumerate(scores):
        key = f"trial-{number:04d}"
        shutil.copytree(written, tmp_path / key)
        trial = Trial("dmkd", stub=True, config={"run": {"key": key, "values": {"n": number}}}, trial_id=key)
        trial.update_last_result({OBJECTIVE: score, "epoch": 2, "trial_id": key})
        kept.on_trial_complete(0, [], trial)
        if number % 10 == 9:
            while kept.thread is not None and len(done) < len(kept.told):
                kept.thread.join(0.05)
        peak = max(peak, size(tmp_path))
    kept.on_experiment_end([])
    # 10 that wait to be deleted, 5 that are kept or written.
    assert one < peak < 16 * one
    best = sorted(range(200), key=lambda number: -scores[number])[:3]
    left = {path.parent.name for path in tmp_path.glob("*/checkpoint")}
    assert left == {f"trial-{number:04d}" for number in [0, *best]}
    assert all(load_model(tmp_path / key / "checkpoint") is not None for key in left)
    assert len(list(tmp_path.glob("*/progress.json"))) == 200


def test_tune_can_keep_a_copy() -> None:
    from ray import cloudpickle, tune

    kept = Retention(OBJECTIVE, epochs=2, best=3, ended={}, name=str, release=print)
    assert type(cloudpickle.loads(cloudpickle.dumps(kept))) is tune.Callback


def test_an_overtaken_trial_loses_its_checkpoint_here_and_in_the_tracker(tmp_path: Path, uri: str) -> None:
    ids = a_sweep(tmp_path / "out", uri, 2, finished=False)
    folder = tmp_path / "out" / "mine" / "trials" / "trial-0001"
    release(Places(tmp_path / "out" / "mine", uri), "trial-0001", "set/mine", "mine-1")
    assert artifacts(uri, ids["trial-0001"]) == []
    assert artifacts(uri, ids["trial-0000"])
    assert not (folder / "checkpoint").exists()
    assert (folder / "done.json").exists()
    assert find_run(uri, "set/mine", "mine-1/trial-0001") == (ids["trial-0001"], "FINISHED")
