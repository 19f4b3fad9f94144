"""What every batch of an epoch holds, before any picture is opened: slots, planned by one keyed generator."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dmkd.data import samplers
from dmkd.data.pictures import Labels, Pictures
from dmkd.data.reading import Found
from dmkd.data.rows import RowMaker
from dmkd.errors import DataError

if TYPE_CHECKING:
    from dmkd.data.batches import Batches


@dataclass(frozen=True, eq=False)
class Slots:
    """What one batch holds: training positions of its pictures, their roles, their places in the epoch, and its tuples."""

    index: Labels
    role: Labels
    place: Labels
    tuples: Labels | None = None

    def readable(self, maker: RowMaker, found: Found) -> Slots:
        """The slots of which nothing that is shown, and no member of their tuple, is known as broken, or `found` to be."""
        part = maker.part
        broken = part.broken.reasons.keys() | found.keys()
        if not broken:
            return self
        views = range(maker.views.per_image)
        mixed = [maker.partners([(place, view) for view in views]) for place in self.place.tolist()]
        shown = [[own, *chain(*others)] for own, others in zip(self.index.tolist(), mixed, strict=True)]
        if self.tuples is not None:
            members = np.repeat(self.tuples, len(self.index) // len(self.tuples), axis=0).tolist()
            shown = [[*row, *others] for row, others in zip(shown, members, strict=True)]
        return self.those(
            np.array([all(part.paths[position] not in broken for position in row) for row in shown], dtype=np.bool_)
        )

    def those(self, keep: NDArray[np.bool_]) -> Slots:
        """The slots [n] to keep; of tuples, those of which all slots are kept."""
        if self.tuples is None:
            return Slots(self.index[keep], self.role[keep], self.place[keep])
        whole = keep.reshape(len(self.tuples), -1).all(axis=1)
        keep = np.repeat(whole, len(keep) // len(self.tuples))
        return Slots(self.index[keep], self.role[keep], self.place[keep], self.tuples[whole])


def plan_slots(part: Pictures, batches: Batches, labels: Labels, tuples: Labels | None, rng: np.random.Generator) -> list[Slots]:
    """The slots of every batch of an epoch, of its kind (`samplers.plan_epoch`, or rows of `tuples` [n, M]).

    Raises `DataError`: too few pictures or classes; tuples of another shape.
    """
    if batches.kind == "tuples":
        return _of_tuples(part, batches, labels, tuples, rng)
    chosen = samplers.plan_epoch(part, batches, labels, rng)
    starts = np.cumsum([0, *(len(index) for index in chosen)])
    places = [np.arange(start, start + len(index)) for start, index in zip(starts, chosen, strict=False)]
    return [Slots(index, np.zeros_like(index), place) for index, place in zip(chosen, places, strict=True)]


def _of_tuples(part: Pictures, batches: Batches, labels: Labels, tuples: Labels | None, rng: np.random.Generator) -> list[Slots]:
    if tuples is None or tuples.ndim != 2 or not tuples.size or not batches.columns <= tuples.shape[1]:
        shape = None if tuples is None else tuple(tuples.shape)
        raise DataError(
            f"tuple batches: found tuples of shape {shape}, wanted [n, M] with M >= method.batches.columns={batches.columns}"
        )
    length = samplers.epoch_length(batches, len(part), len(part.classes), len(tuples))
    cuts = samplers.cut_permutations(len(tuples), batches.size, length, batches.drop_last, rng)
    columns, plan, start = batches.columns or tuples.shape[1], [], 0
    for cut in cuts:
        rows = tuples[cut]
        drawn = rows[:, :columns]
        role = np.where((labels[drawn] == labels[rows[:, :1]]) & (labels[drawn] >= 0), 1, 2)
        role[:, 0] = 0
        plan.append(Slots(drawn.reshape(-1), role.reshape(-1), np.arange(start, start + drawn.size), rows))
        start += drawn.size
    return plan
