"""Equal trials on one card of the cluster, one more at a time: how fast they train together, and what memory each takes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dmkd.config import Config
from dmkd.errors import SweepError
from dmkd.space import override
from sweeps.estimate import columns

WARM = 3
"""Steps of the newest trial that are not timed: the first ones choose algorithms and fill the loader."""


@dataclass(frozen=True)
class Pace:
    """How long is looked."""

    seconds: float = 15.0
    steps: int = 30
    """Of every trial, at least: an end falls somewhere in a step, so a rate is off by two of them at most."""
    patience: float = 300.0
    """Seconds until a trial has done its first steps, or the steps that are timed."""


class Seen(TypedDict):
    """What one trial did since it was marked."""

    images_per_second: float
    peak_mb: float
    """Most that PyTorch held of the card, MiB."""
    used_mb: float
    """What is taken of the card by now, by all of its processes: beside tensors each has kernels and a context there."""
    card_mb: float
    card: str


class Occupant:
    """A trial that trains until it is ended, in a process of its own, as in its last epoch: delayed terms are at work.

    `cores`: it and its loading processes keep to the first so many, as all trials of one card have to.
    """

    def __init__(self, config: Config, cores: int) -> None:
        self._times: list[float] = []
        self._since, self._error = 0.0, ""
        self._images = config.optim.accumulate * config.method.batches.size * columns(config) * config.method.views.per_image
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        threading.Thread(target=self._train, args=(config, cores), name="trial", daemon=True).start()

    def _train(self, config: Config, cores: int) -> None:
        import torch

        from dmkd.trainer import Training

        try:
            torch.set_num_threads(cores)
            training = Training(override(config, {"optim.schedule": "constant"}), torch.device(self.device()))
            training.optimizer.register_step_post_hook(lambda *_: self._times.append(time.monotonic()))
            while True:
                training.epoch, training.iteration = max(0, config.optim.epochs - 1), training.plan.iterations
                training.train_epoch()
        except Exception as error:  # told by `steps`: this thread has nobody to tell
            self._error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def device(self) -> str:
        """Where it trains."""
        return "cuda"

    def memory(self) -> tuple[float, float, str]:
        """MiB: the most that this process held, and what the card has; the card's name."""
        import torch

        card = torch.cuda.get_device_properties(0)
        return torch.cuda.max_memory_reserved(0) / 2**20, card.total_memory / 2**20, str(card.name)

    def used(self) -> float:
        """MiB of the card that are taken, whoever has them."""
        import torch

        free, total = torch.cuda.mem_get_info(0)
        return (total - free) / 2**20

    def steps(self) -> int:
        """Steps done since the last mark. Raises `SweepError` where the trial has failed."""
        if self._error:
            raise SweepError(self._error)
        return sum(when >= self._since for when in self._times)

    def mark(self) -> None:
        """Count from now on."""
        self._times, self._since = [], time.monotonic()

    def seen(self) -> Seen:
        """What was done since the mark, between the ends of its first and its last step."""
        times = list(self._times)
        peak, total, card = self.memory()
        rate = (len(times) - 1) * self._images / (times[-1] - times[0])
        return Seen(images_per_second=rate, peak_mb=peak, used_mb=self.used(), card_mb=total, card=card)


class Card:
    """One card of the cluster, for a while: a context that ends its trials. Raises `SweepError` where none is free."""

    def __init__(
        self, config: Config, cores: int, most: int, pace: Pace | None = None, occupant: type[Occupant] = Occupant
    ) -> None:
        self.config, self.cores, self.most, self.pace = config, cores, most, pace or Pace()
        self._occupant, self._trials = ray.remote(occupant), list[Any]()

    def __enter__(self) -> Card:
        # One bundle holds one whole card, so that all shares of it are shares of the same card.
        self._group = placement_group([{"GPU": 1, "CPU": 1}])
        if not self._group.wait(min(60.0, self.pace.patience)):
            remove_placement_group(self._group)
            raise SweepError("no card of the cluster was free")
        return self

    def add(self) -> list[Seen]:
        """One more trial beside those that train already; what each did while all of them did. Raises what the trial raised."""
        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)
        options = {"num_cpus": 0, "num_gpus": int(1e4 / self.most) / 1e4, "max_restarts": 0, "scheduling_strategy": place}
        self._trials.append(self._occupant.options(**options).remote(self.config, self.cores))
        self._until(self._trials[-1:], 0.0, WARM)
        self._all("mark")
        self._until(self._trials, self.pace.seconds, self.pace.steps)
        return self._all("seen")

    def _until(self, trials: Sequence[Any], seconds: float, steps: int) -> None:
        """Wait for so long, and for so many steps of each of `trials`."""
        began = time.monotonic()
        while min(self._all("steps", trials)) < steps or time.monotonic() - began < seconds:
            if time.monotonic() - began > seconds + self.pace.patience:
                raise SweepError(f"a trial did not do {steps} steps within {self.pace.patience:g} s")
            time.sleep(0.2)

    def _all(self, what: str, trials: Sequence[Any] | None = None) -> list[Any]:
        chosen = self._trials if trials is None else trials
        answers: list[Any] = ray.get([getattr(trial, what).remote() for trial in chosen], timeout=self.pace.patience)
        return answers

    def __exit__(self, *error: object) -> None:
        for trial in self._trials:
            ray.kill(trial)
        remove_placement_group(self._group)
