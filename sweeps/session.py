"""What one start of a script adds to its sweep: more trials, the failed ones again, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna

from sweeps.options import Options
from sweeps.record import Record
from sweeps.study import failed_trials
from sweeps.trial import read_done


def goes_on(record: Record, options: Options, study: optuna.Study, trials: Path) -> bool:
    """Whether there may be something to run; says what. A finished sweep that takes up failed runs is unfinished from here on."""
    failed = failed_runs(study, trials) if options.rerun_failed else 0
    if options.extend:
        _say(f"--extend {options.extend}: {record.trials} trials in all")
    if options.rerun_failed:
        _say(f"--rerun-failed: {failed} to run again" if failed else "--rerun-failed: nothing failed")
    if record.finished and not failed:
        _say("already finished: nothing is repeated (--extend N adds trials)")
        return False
    record.finished = False
    record.save()
    return True


def failed_runs(study: optuna.Study, trials: Path) -> int:
    """Runs that failed and were not run again: trials of the search, teachers, the final stage's."""
    ends = [read_done(folder) for stage in ("teacher", "final") for folder in trials.glob(f"{stage}-*")]
    return len(failed_trials(study)) + len([end for end in ends if end is not None and end["status"] == "failed"])


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr)
