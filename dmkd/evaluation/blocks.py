"""A block of similarities, in the host's memory or on a device: junk struck out, scores read, positives ranked."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.evaluation.arrays import Integers
from dmkd.evaluation.host_ranks import ranks_in_rows

FEW = 16
"""Positives of a query up to which a device counts what lies above each; with more it sorts the rows."""


class Block(Protocol):
    """Similarities [n, G] of n queries to the whole gallery. Rows and columns name m of its cells; rows ascend."""

    def __len__(self) -> int:
        """n"""

    def strike(self, rows: Integers, columns: Integers) -> None:
        """Take cells out of the ranking (-inf)."""

    def scores(self, rows: Integers, columns: Integers) -> NDArray[Any]:
        """[m] values of cells."""

    def ranks(self, rows: Integers, columns: Integers) -> Integers:
        """[m] 1-based ranks of the positives, ascending within a query; of equal values the earlier column comes first."""


class HostBlock:
    """A `Block` of NumPy."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def strike(self, rows: Integers, columns: Integers) -> None:
        """See `Block`."""
        self.values[rows, columns] = -np.inf

    def scores(self, rows: Integers, columns: Integers) -> NDArray[Any]:
        """See `Block`."""
        scores: NDArray[Any] = self.values[rows, columns]
        return scores

    def ranks(self, rows: Integers, columns: Integers) -> Integers:
        """See `Block`."""
        return ranks_in_rows(self.values, rows, columns)


class DeviceBlock:
    """A `Block` of torch: nothing but cells of positives and their ranks leaves the device."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def _there(self, *indices: Integers) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(index).to(self.values.device) for index in indices)

    def strike(self, rows: Integers, columns: Integers) -> None:
        """See `Block`."""
        self.values[self._there(rows, columns)] = -torch.inf

    def scores(self, rows: Integers, columns: Integers) -> NDArray[Any]:
        """See `Block`."""
        scores: NDArray[Any] = self.values[self._there(rows, columns)].cpu().numpy()
        return scores

    def ranks(self, rows: Integers, columns: Integers) -> Integers:
        """See `Block`."""
        if not len(rows):
            return np.zeros(0, dtype=np.int64)
        where, column = self._there(rows, columns)
        nth = np.arange(len(rows)) - np.searchsorted(rows, rows)
        ahead = self._count(where, column) if nth.max() < FEW else self._sort(where, column, *self._there(nth))
        # Rows are whole numbers below n, ranks below G: one sort orders the ranks of every row.
        width = self.values.shape[1] + 1
        ordered: Integers = ((where * width + ahead + 1).sort().values % width).cpu().numpy()
        return ordered

    def _count(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[m] cells of the row that come before each positive, by looking at all of them."""
        ahead = []
        for row, column in zip(torch.split(rows, len(self)), torch.split(columns, len(self)), strict=True):
            cells = self.values[row]
            own = cells.gather(1, column[:, None])
            before = torch.arange(cells.shape[1], device=cells.device) < column[:, None]
            ahead.append((cells > own).sum(1) + ((cells == own) & before).sum(1))
        return torch.cat(ahead)

    def _sort(self, rows: Tensor, columns: Tensor, nth: Tensor) -> Tensor:
        """The same by sorting every row once; only ties are looked at one by one."""
        own = self.values[rows, columns]
        wanted = self.values.new_full((len(self), int(nth.max()) + 1), torch.inf)
        wanted[rows, nth] = own
        ordered = self.values.sort(dim=1).values
        right, left = (torch.searchsorted(ordered, wanted, right=side)[rows, nth] for side in (True, False))
        ahead = self.values.shape[1] - right
        tied = (right - left > 1).nonzero().reshape(-1)
        for some in torch.split(tied, len(self)):
            before = torch.arange(self.values.shape[1], device=rows.device) < columns[some, None]
            ahead[some] += ((self.values[rows[some]] == own[some, None]) & before).sum(1)
        return ahead
