"""What a dead driver left, closed by whoever looks next: runs in the tracker, trials in the studies. Light to import."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from dmkd.errors import SweepError
from sweeps.places import STUDY

_SETTLED = "settled"


def reap_all(uri: str, experiment: str | None = None) -> list[str]:
    """Close what dead drivers and workers left: runs in the tracker, trials in the studies of their sweeps. In words, what.

    A tracker that does not answer, or lets nobody write, is no error: looking must not need it.
    """
    from tracking.errors import TrackingError
    from tracking.places import known_spools
    from tracking.reaping import reap

    reaped = []
    with suppress(TrackingError, OSError):
        reaped = reap(uri, experiment)
    folders = {Path(run.tags["dmkd.spool"]).parent.parent for run in reaped if "dmkd.spool" in run.tags}
    folders |= {root.parent for root in known_spools()}
    told = [f"run {run.name or run.run_id} was left RUNNING by a dead process: closed" for run in reaped]
    for folder in sorted(folders):
        if (folder / STUDY).is_file():
            told += [f"trial {number} of {folder.name} waits for --resume: its driver is dead" for number in settle_study(folder)]
    return told


def told_reaped(uri: str = "", experiment: str | None = None) -> None:
    """`reap_all`, told on standard error."""
    from tracking.places import absolute_uri, default_uri

    for line in reap_all(absolute_uri(uri) if uri else default_uri(), experiment):
        print(f"note: {line}", file=sys.stderr)


def settle_study(folder: Path) -> list[int]:
    """Trials that a dead driver left RUNNING in a sweep's study wait again: `--resume` continues each under its own number.

    Nothing is touched where the driver lives. Costs nothing where nothing has changed since the last time.
    """
    from sweeps.places import lock

    journal, note = folder / STUDY, folder / _SETTLED
    size = str(journal.stat().st_size)
    if note.is_file() and note.read_text() == size:
        return []
    settled: list[int] = []
    with suppress(SweepError), lock(folder):
        settled = _settle(folder)
        note.write_text(str(journal.stat().st_size))
    return settled


def _settle(folder: Path) -> list[int]:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY)))
    settled = []
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            storage.set_trial_user_attr(trial._trial_id, "interrupted", "its driver died: --resume goes on")
            storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            settled.append(trial.number)
    return settled
