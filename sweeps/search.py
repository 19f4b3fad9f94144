"""A Ray Tune searcher on a durable Optuna study.

The study is the truth of a sweep: resume, extend and rerun-failed are each a new Tuner on the same study. The searcher first
hands out what was running when a driver died, then what is enqueued (trial 0 first), then new proposals. A trial may be several
runs, one a fold and seed (`pieces`): the first decides whether the others are worth their time.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.journal import synced_once
from sweeps.objectives import Objectives
from sweeps.pieces import WHOLE, Piece, hopeless
from sweeps.rows import row_id
from sweeps.space import Searched, Values
from sweeps.study import CURVE, REASON, SKIPPED, counted, curve, repeated

SCORES, SECONDS = "pieces", "seconds"
"""User attributes of a trial: the objectives' values of each piece that is done, and what its runs took."""

DIED = "the worker process ended without a word (killed, or out of memory): see the trial's run and Ray's logs"


@dataclass
class _Asked:
    """A trial of the study that is being run."""

    trial: optuna.trial.Trial
    values: Values
    waiting: list[int]
    """Pieces that were not handed out yet."""
    scores: dict[int, list[float]] = field(default_factory=dict)
    released: bool = False
    """Whether more than the first piece may run."""
    seconds: float = 0.0
    ended: bool = False


class StudySearch(Searcher):
    """Ask, report and tell between Ray Tune and an Optuna study.

    `limit` trials in the whole study; `accept(values)` refuses a proposal before it runs, in words, or gives "";
    `closed(seconds of the longest trial, of all)` says whether it is too late for another; `save()` returns when it is safe.
    """

    def __init__(
        self,
        study: optuna.Study,
        searched: Searched,
        *,
        objectives: Objectives,
        epochs: int,
        limit: float,
        pieces: Sequence[Piece] = (WHOLE,),
        accept: Callable[[Values], str] = lambda values: "",
        closed: Callable[[float, float], bool] = lambda longest, spent: False,
        save: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(metric=objectives.accuracy, mode="max")
        self.study, self.searched, self.objectives, self.pieces = study, searched, objectives, tuple(pieces)
        self.epochs, self.limit, self.accept, self.closed, self.save_study = epochs, limit, accept, closed, save
        self._ended, self._running, self._open = False, dict[str, tuple[_Asked, int]](), list[_Asked]()
        self._orphans = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]

    @property
    def left(self) -> float:
        """Runs still to hand out, where no trial is dropped."""
        done = sum(len(trial.user_attrs.get(SCORES, {})) for trial in self._orphans)
        return len(self.pieces) * (len(self._orphans) + max(0, self.limit - counted(self.study))) - done

    @property
    def over(self) -> bool:
        """Whether nothing is left: every trial handed out, the time up, or no further proposal within the bounds."""
        return self._ended or not self.left

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Everything was given to the constructor."""
        return True

    @synced_once()
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next run: `{"number", "piece", "key", "values", "tags"}`; None: not now; or FINISHED."""
        self._adopt()
        while True:
            for asked in self._open:
                if asked.waiting and (asked.released or asked.waiting[0] == 0):
                    return self._handed(trial_id, asked)
            if not self._propose():
                break
        if any(asked.waiting for asked in self._open):
            return None  # their first pieces still run
        self._ended = True
        return str(Searcher.FINISHED)

    def _adopt(self) -> None:
        """Take up the trials that ran when their driver died."""
        while self._orphans:
            trial = optuna.trial.Trial(self.study, self._orphans.pop(0)._trial_id)
            self._taken_up(trial, self.searched.propose(trial))

    def _propose(self) -> bool:
        """Open another trial, if there is to be one."""
        if self._ended or counted(self.study) >= self.limit or self.closed(*self._seconds()):
            return False
        for trial, values in self._proposals():
            refusal = (repeated(self.study, trial) or self.accept(values)) if trial.number else ""
            if not refusal:
                self._taken_up(trial, values)
                return True
            trial.set_user_attr(SKIPPED, True)
            self._tell(trial, TrialState.FAIL, refusal)
        return False

    def _proposals(self, attempts: int = 200) -> Iterator[tuple[optuna.trial.Trial, Values]]:
        for _ in range(attempts):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental features, chosen by us on purpose
                trial = self.study.ask()
                yield trial, self.searched.propose(trial)

    def _taken_up(self, trial: optuna.trial.Trial, values: Values) -> _Asked:
        """A trial whose pieces are handed out; those that it has already, from a driver that died, are not done again."""
        known = trial.user_attrs
        scores = {int(piece): told for piece, told in known.get(SCORES, {}).items()}
        waiting = [piece for piece in range(len(self.pieces)) if piece not in scores]
        asked = _Asked(trial, values, waiting, scores, False, known.get(SECONDS, 0.0))
        self._open.append(asked)
        if scores:
            self._judge(asked)
        return asked

    def _handed(self, trial_id: str, asked: _Asked) -> dict[str, Any]:
        place, number = asked.waiting.pop(0), asked.trial.number
        piece = self.pieces[place]
        self._running[trial_id] = asked, place
        tags = {"dmkd.trial": str(number), "dmkd.label": f"trial {number}"}
        if piece.name:  # folds may have teachers of their own, and are one row all the same
            row = row_id(self.searched.base, asked.values)
            tags |= {"dmkd.piece": piece.label, "dmkd.row": row, "dmkd.config_hash": row}
        self.save_study()  # a driver that resumes must know whose folder `key` is
        key, values = trial_key(number, piece), asked.values | piece.values
        return {"number": number, "piece": place, "key": key, "values": values, "tags": tags}

    def _seconds(self) -> tuple[float, float]:
        """Of the longest trial, and of all of them together."""
        trials = [t for t in self.study.get_trials(deepcopy=False) if not t.user_attrs.get(SKIPPED)]
        longest = max((t.duration.total_seconds() for t in trials if t.duration), default=0.0)
        ran = [float(trial.user_attrs.get(SECONDS, 0.0)) for trial in trials]
        return longest, sum(ran) + max(ran, default=0.0) * len(self._running)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a finite value once for each epoch of the first piece.

        `history`, the trial's own record of [epoch, value], fills what a driver that died did not hear of.
        """
        asked, place = self._running[trial_id]
        if place or asked.ended:
            return
        known = curve(self.study.get_trials(deepcopy=False)[asked.trial.number])
        told = {int(epoch): value for epoch, value in result.get("history", [])} | {
            int(result.get("epoch", 0)): result.get(self.metric)
        }
        new = {e: float(v) for e, v in told.items() if v is not None and abs(v) < float("inf") and e not in known}
        if len(self.study.directions) > 1 and new:  # Optuna takes intermediate values of one objective alone
            asked.trial.set_user_attr(CURVE, [list(point) for point in (known | new).items()])
            return
        for epoch, value in new.items():
            asked.trial.report(value, epoch)

    @synced_once()
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study COMPLETE, PRUNED (stopped before the planned epochs) or FAIL with its reason, never a NaN."""
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        asked, place = self._running.pop(trial_id)
        asked.seconds += float((result or {}).get("time_total_s", 0.0))
        if asked.ended:
            return None
        which = f"{self.pieces[place].label}: " if self.pieces[place].name else ""
        if error or result is None or result.get("failed") or "epoch" not in result:
            return self._end(asked, TrialState.FAIL, which + str((result or {}).get("failed") or DIED))
        if int(result["epoch"]) < self.epochs:
            return self._end(asked, TrialState.PRUNED, f"stopped early after epoch {result['epoch']} of {self.epochs}")
        values, reason = self.objectives.values(result)
        if reason:
            return self._end(asked, TrialState.FAIL, which + reason)
        asked.scores[place] = values
        if len(self.pieces) > 1:
            asked.trial.set_user_attr(SCORES, asked.scores)
        return self._judge(asked)

    def _judge(self, asked: _Asked) -> None:
        """Tell the mean of all pieces, drop what cannot reach the best any more, or let the other pieces run."""
        pieces = len(self.pieces)
        if len(asked.scores) == pieces:
            values = [sum(column) / pieces for column in zip(*asked.scores.values(), strict=True)]
            return self._end(asked, TrialState.COMPLETE, "", values)
        why = ""
        if asked.trial.number and len(self.study.directions) == 1:  # on a front, worse may be cheaper
            why = hopeless({piece: values[0] for piece, values in asked.scores.items()}, self._complete(), pieces)
        if why:
            return self._end(asked, TrialState.PRUNED, f"dropped after {len(asked.scores)} of {pieces} folds and seeds: {why}")
        asked.released = True
        return None

    def _complete(self) -> list[list[float]]:
        """Scores by piece of the complete trials."""
        done = [t for t in self.study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and SCORES in t.user_attrs]
        told = [{int(piece): values[0] for piece, values in trial.user_attrs[SCORES].items()} for trial in done]
        return [[scores[piece] for piece in range(len(self.pieces))] for scores in told if len(scores) == len(self.pieces)]

    def _end(self, asked: _Asked, state: TrialState, reason: str, values: list[float] | None = None) -> None:
        asked.ended, asked.waiting = True, []
        self._open.remove(asked)
        asked.trial.set_user_attr(SECONDS, round(asked.seconds, 3))
        self._tell(asked.trial, state, reason, values)

    def _tell(self, trial: optuna.trial.Trial, state: TrialState, reason: str, values: list[float] | None = None) -> None:
        if reason:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, values, state=state)

    def save(self, checkpoint_path: str) -> None:
        """The study is durable by itself; what is left is {tune id: [number, piece]}."""
        numbers = {tune_id: [asked.trial.number, place] for tune_id, (asked, place) in self._running.items()}
        Path(checkpoint_path).write_text(json.dumps(numbers))

    def restore(self, checkpoint_path: str) -> None:
        """Take up the trials that a saved searcher was running."""
        saved = json.loads(Path(checkpoint_path).read_text())
        self._adopt()
        by_number = {asked.trial.number: asked for asked in self._open}
        for tune_id, (number, place) in saved.items():
            self._running[tune_id] = by_number[number], place
            by_number[number].waiting.remove(place)


def trial_key(number: int, piece: Piece = WHOLE) -> str:
    """The stable name of a search run: its folder and its key."""
    return f"trial-{number:04d}" + (f"-{piece.name}" if piece.name else "")
