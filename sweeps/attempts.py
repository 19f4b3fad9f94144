"""How often a trial was begun without getting further: what kills its worker again and again must not be tried for ever."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.folder import read_progress
from tracking.heartbeat import read_beat
from tracking.places import write_text

FILE = "attempts.json"
WORDLESS = "its worker process ended without a word (killed, or out of memory)"
DEATHS, SILENCES = 2, 1
"""So often a trial goes on from the same epoch after its worker was killed; after it fell silent, or lost a loading process."""


@dataclass
class Attempts:
    """The deaths of a trial's workers under one driver: `[epochs done by then, reason]` each."""

    folder: Path

    def begin(self, driver: str) -> str:
        """Note that an attempt begins; empty, or why there must be no further one."""
        noted, epoch = self._read(), self._epoch()
        deaths: list[list[Any]] = noted["deaths"] if noted.get("driver") == driver else []
        if noted.get("driver") == driver and noted.get("open"):
            deaths = [*deaths, [epoch, WORDLESS]]
        self._write(driver, deaths, True)
        here = [reason for when, reason in deaths if when == epoch]
        silent = [reason for reason in here if reason != WORDLESS]
        if len(silent) <= SILENCES and len(here) <= DEATHS:
            return ""
        return f"{here[-1]}; given up after {len(here)} times in epoch {epoch + 1}"

    def died(self, reason: str) -> None:
        """Why this attempt is about to die."""
        noted = self._read()
        self._write(noted["driver"], [*noted["deaths"], [self._epoch(), reason]], False)

    def ended(self) -> None:
        """This attempt ends in order: it counts as no death."""
        noted = self._read()
        if noted:
            self._write(noted["driver"], noted["deaths"], False)

    def _epoch(self) -> int:
        return int(read_progress(self.folder).get("epoch", 0))

    def _read(self) -> dict[str, Any]:
        return read_beat(self.folder / FILE) or {}

    def _write(self, driver: str, deaths: list[list[Any]], opened: bool) -> None:
        write_text(self.folder / FILE, json.dumps({"driver": driver, "deaths": deaths, "open": opened}))
