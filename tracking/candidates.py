"""Which runs are one candidate: grouping by configuration, search with final stage, protocol by protocol. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl

FINISHED = "FINISHED"
NEEDED = ("run_id", "experiment", "experiment_id", "status", "start_time", "metrics.test_looks")
PREFIXES = ("tags.dmkd.", "metrics.model/", "metrics.cost/")
PARAMS = ("student.dim", "student.resolution", "student.backbone", "teacher.resolution")
"""What of the runs a row is made from; all else of them is looked up where it is asked for."""
AT = "_at"
"""The place of a run in the frame that it comes from."""
LATENCY = ("metrics.model/latency_ms", "metrics.cost/latency_ms")

Row = dict[str, Any]


class Piece(NamedTuple):
    """The runs of one configuration whose search has one protocol, and whose final stage has one (None: no such stage)."""

    config_hash: str
    validation: str | None
    test: str | None
    runs: list[Row]


@dataclass(frozen=True)
class Candidate:
    """One configuration under one protocol: its counted runs (`search`, `final`), and all of its `runs`."""

    config_hash: str
    own_protocol: str
    protocol: str
    search: tuple[Row, ...]
    final: tuple[Row, ...]
    runs: tuple[Row, ...]
    measured: bool

    @cached_property
    def known(self) -> Row:
        """Of every column what the earliest run has that logged it."""
        if len(self.runs) == 1:
            return self.runs[0]
        return {key: value for run in reversed(self.runs) for key, value in run.items() if value is not None}

    @cached_property
    def method(self) -> str:
        """The tag `dmkd.method`."""
        return str(self._first("tags.dmkd.method") or "run")

    @cached_property
    def reference(self) -> str | None:
        """What the row is there to be compared with (untrained, undistilled, teacher), or None."""
        return self._first("tags.dmkd.reference") or None

    def values(self, runs: Iterable[Row], metric: str) -> list[float]:
        """A metric of those runs that logged it."""
        return [run[f"metrics.{metric}"] for run in runs if run.get(f"metrics.{metric}") is not None]

    def facts(self) -> Row:
        """What a leaderboard row says of the runs themselves."""
        hours = {kind: self._total(f"cost/{kind}_seconds") / 3600 for kind in ("gpu", "train")}
        return {
            "config_hash": self.config_hash,
            "protocol": self.protocol,
            "method": self.method,
            "reference": self.reference,
            "status": self._status(),
            "runs": len(self.runs),
            "failed": sum(run["status"] == "FAILED" for run in self.runs),
            "test_looks": self._looks(),
            "gflops": self._first("metrics.model/gflops"),
            "parameters": self._first("metrics.model/parameters"),
            "dim": self._first("metrics.model/dim") or number(self._first("params.student.dim")),
            "resolution": number(self._first("params.student.resolution")),
            "backbone": self._first("params.student.backbone"),
            "latency_ms": next((self._first(column) for column in LATENCY if self._first(column) is not None), None),
            "gpu_hours": hours["gpu"],
            "cpu_hours": hours["train"] - hours["gpu"],
            "commit": self._first("tags.dmkd.commit"),
            "run_id": self._representative(),
            "experiment": self._first("experiment"),
            "experiment_id": self._first("experiment_id"),
            "search_runs": [run["run_id"] for run in self.search],
            "final_runs": [run["run_id"] for run in self.final],
        }

    def gallery_resolution(self, role: str) -> float | None:
        """Pixels of the gallery's pictures: the teacher's where it embeds them, if the runs say so; else the student's."""
        if role != "asymmetric":
            return number(self._first("params.student.resolution"))
        return number(self._first("params.teacher.resolution")) or None

    @property
    def sweeps(self) -> set[str]:
        """The sweeps that its runs belong to."""
        return {str(run["tags.dmkd.sweep"]) for run in self.runs if run.get("tags.dmkd.sweep")}

    @property
    def at(self) -> int:
        """The place of its first run in the frame that was read."""
        return int(self.runs[0][AT])

    def tags(self, *names: str) -> Row:
        """Tags `dmkd.<name>` of the candidate's final runs, else of any (null: none has it)."""
        runs = self.final or self.runs
        if len(runs) == 1:
            return {name: runs[0].get(f"tags.dmkd.{name}") or None for name in names}
        return {name: next((run[f"tags.dmkd.{name}"] for run in runs if run.get(f"tags.dmkd.{name}")), None) for name in names}

    def _first(self, column: str) -> Any:
        return self.known.get(column)

    def _total(self, metric: str) -> float:
        return math.fsum(value for value in self.values(self.runs, metric) if math.isfinite(value))

    def _looks(self) -> int:
        """How often one seed's network has seen the test classes; more than 1: somebody looked again."""
        looks: dict[Any, float] = defaultdict(float)
        for run in self.runs:
            looks[run.get("tags.dmkd.seed")] += run.get("metrics.test_looks") or 0
        return int(max(looks.values()))

    def _status(self) -> str:
        if self.search or self.final:
            return "finished"
        reasons = [str(run.get("tags.dmkd.status_reason") or "") for run in self.runs]
        return "pruned" if any(reason.startswith("pruned") for reason in reasons) else str(self.runs[0]["status"]).lower()

    def _representative(self) -> str:
        """The run whose checkpoint stands for the row: the final run of the lowest seed (a choice that no score has made)."""
        chosen = min(
            self.final or self.search or self.runs, key=lambda run: (number(run.get("tags.dmkd.seed")) or 0, run["run_id"])
        )
        return str(chosen["run_id"])


def candidates(runs: pl.DataFrame, select_by: str, report: str) -> list[Candidate]:
    """Every candidate in `runs`, in order of its first run. Parent runs of sweeps, which have no configuration, are left out."""
    wanted = {*NEEDED, *(f"params.{name}" for name in PARAMS), f"metrics.{select_by}", f"metrics.{report}"}
    kept = [name for name in runs.columns if name in wanted or name.startswith(PREFIXES)]
    rows = runs.select(kept).with_row_index(AT).to_dicts()
    by_hash: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (str(row.get("start_time")), row["run_id"])):
        config_hash = row.get("tags.dmkd.row") or row.get("tags.dmkd.config_hash")
        if config_hash:
            by_hash[config_hash].append(row)
    pieces = [piece for config_hash, members in by_hash.items() for piece in _by_protocol(config_hash, members)]
    pairs = {(piece.validation, piece.test) for piece in pieces}
    return [_candidate(piece, _table(piece, pairs), f"metrics.{select_by}", f"metrics.{report}") for piece in pieces]


def _is_final(run: Row) -> bool:
    return run.get("tags.dmkd.stage") == "final"


def _by_protocol(config_hash: str, members: list[Row]) -> list[Piece]:
    search, final = _split([run for run in members if not _is_final(run)]), _split([run for run in members if _is_final(run)])
    if not search:
        return [Piece(config_hash, None, protocol, runs) for protocol, runs in final.items()]
    pieces = []
    for validation, runs in search.items():
        sweeps = {run.get("tags.dmkd.sweep") for run in runs}
        own = {
            test: [run for run in tested if len(search) == 1 or run.get("tags.dmkd.sweep") in sweeps]
            for test, tested in final.items()
        }
        matched = [Piece(config_hash, validation, test, runs + tested) for test, tested in own.items() if tested]
        pieces += matched or [Piece(config_hash, validation, None, runs)]
    return pieces


def _split(runs: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for run in runs:
        found[run.get("tags.dmkd.protocol") or ""].append(run)
    return found


def _candidate(piece: Piece, table: str, validation: str, test: str) -> Candidate:
    finished = [run for run in piece.runs if run["status"] == FINISHED]
    return Candidate(
        config_hash=piece.config_hash,
        own_protocol=piece.validation if piece.validation is not None else piece.test or "",
        protocol=table,
        search=_counted([run for run in finished if not _is_final(run)], validation),
        final=_counted([run for run in finished if _is_final(run)], test),
        runs=tuple(piece.runs),
        measured=not finished or any(run.get(metric) is not None for run in finished for metric in (validation, test)),
    )


def _table(piece: Piece, pairs: set[tuple[str | None, str | None]]) -> str:
    """Which table a row belongs to. A row without a final stage (or a reference without a search) joins the only one it fits."""
    validation, test = piece.validation, piece.test
    if test is None:
        fits = {other for mine, other in pairs if mine == validation and other is not None}
        test = fits.pop() if len(fits) == 1 else None
    if validation is None:
        fits = {mine for mine, other in pairs if other == test and mine is not None}
        validation = fits.pop() if len(fits) == 1 else None
    return "+".join(dict.fromkeys(part for part in (validation, test) if part))


def _counted(runs: list[Row], metric: str) -> tuple[Row, ...]:
    """The earliest run of each seed and fold that logged the metric."""
    first: dict[tuple[Any, Any], Row] = {}
    for run in runs:
        if run.get(metric) is not None:
            first.setdefault((run.get("tags.dmkd.seed"), run.get("tags.dmkd.fold")), run)
    return tuple(first.values())


def number(text: Any) -> float | None:
    """A param as a number, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
