"""How often a trial was begun without getting further: what kills its worker again and again must not be tried for ever."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracking.heartbeat import read_beat
from tracking.places import write_text

FILE = "attempts.json"
WORDLESS = "its worker process ended without a word (killed, or out of memory)"
DEATHS, SILENCES = 2, 1
"""So often a trial goes on from the same epoch after its worker was killed; after it fell silent, or lost a loading process."""


@dataclass
class Attempts:
    """The deaths of a trial's workers since its last finished epoch, under one driver."""

    folder: Path

    def begin(self, driver: str, epoch: int) -> str:
        """Note that an attempt begins after `epoch`; empty, or why there must be no further one."""
        noted = self._read()
        same = noted.get("driver") == driver and noted.get("epoch") == epoch
        deaths: list[str] = list(noted.get("deaths", [])) if same else []
        if same and noted.get("open"):
            deaths.append(WORDLESS)
        self._write(driver, epoch, deaths, True)
        silent = [reason for reason in deaths if reason != WORDLESS]
        if len(silent) <= SILENCES and len(deaths) <= DEATHS:
            return ""
        return f"{deaths[-1]}; given up after {len(deaths)} times in epoch {epoch + 1}"

    def died(self, reason: str) -> None:
        """Why this attempt is about to die."""
        noted = self._read()
        self._write(noted["driver"], noted["epoch"], [*noted["deaths"], reason], False)

    def ended(self) -> None:
        """This attempt ends in order: it counts as no death."""
        noted = self._read()
        if noted:
            self._write(noted["driver"], noted["epoch"], noted["deaths"], False)

    def _read(self) -> dict[str, Any]:
        return read_beat(self.folder / FILE) or {}

    def _write(self, driver: str, epoch: int, deaths: list[str], opened: bool) -> None:
        write_text(self.folder / FILE, json.dumps({"driver": driver, "epoch": epoch, "deaths": deaths, "open": opened}))
