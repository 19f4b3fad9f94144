"""`--gpus-per-trial auto` in a driver: the probe is asked once a sweep, its answer is said, logged to the parent run and kept."""

from __future__ import annotations

import sys

from dmkd.config import Config
from sweeps.cluster import find_resources
from sweeps.occupant import Card
from sweeps.packing import Measured, fill, most_at_once, share
from sweeps.record import Record
from tracking.runs import Run


class Packer:
    """Of one sweep. `run`: its parent run, once there is one."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.run: Run | None = None
        self.measured: Measured | None = None

    def share(self, config: Config | None, runs: float, workers: int, at_once: int | None) -> float | None:
        """GPUs of a trial, for `runs` trials of the size of `config` or less; None where there are none, or nothing is trained.

        `workers`: loading processes of a trial; `at_once`: trials at once at most.
        """
        whole = find_resources(None, workers, None)
        if not whole.gpus or config is None or not config.optim.epochs:
            why = "nothing is trained" if whole.gpus else "this cluster has no GPU: trials train on CPUs"
            _say(f"packing (--gpus-per-trial auto): {why}")
            return None
        most = most_at_once(whole.cpus, whole.at_once, min(runs, at_once or runs))
        if self.measured is None and most > 1:
            self.measured = self._known() or self._probed(config, whole.cpus, most)
        trials = min(most, self.measured.packing.trials) if self.measured else 1
        _say(f"packing: {trials} to a card for {runs:g} runs on {whole.at_once} cards")
        return share(trials)

    def _known(self) -> Measured | None:
        """What the probe found when the sweep began."""
        if not self.record.packing:
            return None
        known = Measured.from_dict(self.record.packing)
        _say("packing, as chosen when the sweep began:", *known.lines())
        return known

    def _probed(self, config: Config, cores: int, most: int) -> Measured | None:
        """What it finds now; None, and why, where it finds nothing."""
        _say("packing: a probe on one card, a minute or a few")
        try:
            with Card(config, cores, most) as card:
                found = fill(card, most)
        except Exception as error:  # a sweep does not fail for want of a probe: its own trials say what is wrong with them
            _say(f"packing: the probe failed ({' '.join(str(error).split())[-300:]})")
            return None
        _say(*found.lines())
        if self.run is not None:
            for count, metrics in found.metrics():
                self.run.log(metrics, step=count)
            chosen = found.packing
            self.run.set_tags({"dmkd.packing": f"{chosen.trials} to a card, {chosen.speedup:.2f} x the images of one by one"})
        self.record.packing = found.to_dict()
        self.record.save()
        return found


def _say(*lines: str) -> None:
    for line in lines:
        print(f"  {line}", file=sys.stderr, flush=True)
