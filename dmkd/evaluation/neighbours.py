"""The first neighbours of chosen queries, junk left out: what a person looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmkd.evaluation.measure import Measure


def first_neighbours(measure: Measure, queries: Tensor, gallery: Tensor, positions: Sequence[int], count: int) -> list[list[int]]:
    """For each of the queries at `positions` of the part, the positions of its `count` most similar gallery pictures, best first.

    `queries` and `gallery` [N, D] embed the same pictures, as in `Measure.compare`, whose junk and ties these are.
    """
    asked, shown = measure.sides()
    strict = measure.data.protocol == "strict" and measure.part.groups is not None
    groups = torch.from_numpy(measure.part.groups) if strict and measure.part.groups is not None else None
    found: list[list[int]] = []
    for position in positions:
        if position not in asked:
            found.append([])
            continue
        junk = shown == position
        if groups is not None:
            junk |= groups[shown] == groups[position]
        similarity = (gallery[shown] @ queries[position]).masked_fill(junk, -torch.inf)
        order = torch.argsort(similarity, descending=True, stable=True)[: min(count, int((~junk).sum()))]
        found.append(shown[order].tolist())
    return found
