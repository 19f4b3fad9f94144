"""Tuples of an epoch: anchors, a positive each, negatives out of a pool; what symmetric and asymmetric training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from dmkd.data.samplers import epoch_length
from dmkd.distill.base import EpochContext, Method
from dmkd.errors import ConfigError, DataError
from dmkd.losses import tuple_contrastive_loss, tuple_multi_similarity_loss, tuple_triplet_loss
from dmkd.mining import hard_negatives
from dmkd.space import Limit, OneOf, Range

Embed = Callable[[Tensor], Tensor]
"""Training positions [n] -> embeddings [n, D]."""

UNSUPERVISED = ("regression", "rkd", "darkrank")
"""Objectives that use no labels: their tuples are single images, drawn at random."""


@dataclass(frozen=True)
class TupleMethod(Method):
    """What the tuples of an epoch are made of, and the constants of the tuple losses (Budnik & Avrithis, Eq. 4-6).

    Anchors have a label, and a class-mate where a positive is drawn; images without are no anchors, and images without a label
    no negatives either. An anchor is used once before one is used again.
    """

    objective: Annotated[str, OneOf(("contrastive", "triplet", "multi_similarity", "loss"))] = "contrastive"
    """loss: the run's base loss (`loss`), of the anchors against the rest of all tuples of the batch."""
    positives: bool = True
    """Draw one positive of the anchor's class."""
    negatives: bool = True
    """Mine `negative_count` negatives each epoch."""
    negative_count: Annotated[int, Limit(minimum=1)] = 5
    pool: Annotated[int, Limit(minimum=1)] = 22000
    """Training images among which negatives are mined, drawn each epoch (the text's; the released code's default is 20000)."""
    mining: Annotated[str, OneOf(("hard", "random"))] = "hard"
    """Rank the pool by similarity to the anchor, or at random; either way at most one image of a class, none of the anchor's."""
    margin: Annotated[float, Range(0.05, 1.5, log=True), Limit(minimum=0)] = 0.7
    """Of the contrastive (0.7) or the triplet (0.1) objective."""
    alpha: Annotated[float, Limit(above=0)] = 1.0
    """Of the multi-similarity objective, with `beta` and `base`: the text's 1, 1, 0.6 (the released code: 2, 40, 0.5)."""
    beta: Annotated[float, Limit(above=0)] = 1.0
    base: float = 0.6
    form: Annotated[str, OneOf(("released", "paper"))] = "released"
    """Of the contrastive, regression and DarkRank objectives: what the code computes, or what the text says."""

    @property
    def label(self) -> str:
        """The name and the objective; what is drawn, where that is not a positive and negatives."""
        drawn = "+".join(part for part in ("own", "positives", "negatives") if getattr(self, part, False))
        usual = self.objective in UNSUPERVISED or (self.positives and self.negatives)
        return f"{self.name}/{self.objective}" + ("" if usual else f"/{drawn}")

    @property
    def idle(self) -> frozenset[str]:
        """The margin, where the objective has none."""
        return frozenset() if self.objective in ("contrastive", "triplet") else frozenset({"margin"})

    def check_tuples(self, columns: int, own: bool = False) -> None:
        """Raise `ConfigError` where a tuple would lack a part of it, or the loader would draw other columns than wanted."""
        pulls, pushes = own or self.positives, self.negatives
        if self.objective == "contrastive" and not (pulls or pushes):
            raise ConfigError(f"{self.name}: own, positives and negatives are all off; wanted at least one")
        if self.objective in ("triplet", "multi_similarity", "loss") and not (pulls and pushes):
            raise ConfigError(f"{self.name}: {self.objective} wants negatives, and positives or own; switch them on")
        if self.views.per_image != 1 or self.batches.kind != "tuples" or self.batches.columns != columns:
            raise ConfigError(
                f'{self.name}: found views.per_image={self.views.per_image}, batches.kind="{self.batches.kind}", batches.columns='
                f'{self.batches.columns}; wanted 1, "tuples" and {columns}'
            )

    def draw_tuples(self, context: EpochContext, pool: Embed, device: torch.device) -> Tensor:
        """[n, M] training positions: anchor, positive, negatives nearest by the student to what `pool` gives (on `device`)."""
        labels, generator = context.labels, seeded(context)
        count = epoch_length(self.batches, len(labels), 0) * self.batches.size
        supervised = self.objective not in UNSUPERVISED
        if supervised and context.pairs is not None:
            anchors, positives = draw_pairs(context.pairs, labels, count, generator).unbind(1)
        else:
            anchors = draw_anchors(labels, count, generator, supervised, supervised and self.positives)
            positives = draw_positives(anchors, labels, generator) if supervised and self.positives else anchors
        columns = [anchors[:, None]]
        if supervised and self.positives:
            columns.append(positives[:, None])
        if supervised and self.negatives:
            columns.append(self._mine(anchors, context, pool, generator, device))
        return torch.cat(columns, dim=1)

    def _mine(
        self, anchors: Tensor, context: EpochContext, embed: Embed, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        labels = context.labels
        pool = draw_pool(labels, self.pool, generator)
        unique, back = torch.unique(anchors, return_inverse=True)
        sides = context.embed(unique, "student"), embed(pool), labels[unique], labels[pool]
        options = {"count": self.negative_count, "random": self.mining == "random"}
        mined = hard_negatives(*(side.to(device) for side in sides), **options)  # type: ignore[arg-type]
        return pool[mined.cpu()][back]

    def tuple_term(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The objective, a sum over anchors: a function of anchors [Q, D], others [Q, M, D] and which are positives [Q, M]."""
        if self.objective == "contrastive":
            return partial(tuple_contrastive_loss, margin=self.margin, form=self.form)
        if self.objective == "triplet":
            return partial(tuple_triplet_loss, margin=self.margin)
        return partial(tuple_multi_similarity_loss, alpha=self.alpha, beta=self.beta, base=self.base, reduction="sum")


def leading(others: Tensor, count: int) -> Tensor:
    """[Q, M] bool: the first `count` columns of others [Q, M, D], where the positives stand."""
    return (torch.arange(others.shape[1], device=others.device) < count).expand(others.shape[:2])


def seeded(context: EpochContext, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the run's seed and the epoch alone (and, in what it draws, on the kind of device)."""
    return torch.Generator(device).manual_seed(int(context.generator()))


def draw_pool(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """At most `size` random positions [P] of images with a label."""
    known = (labels >= 0).nonzero().squeeze(1)
    return known[torch.randperm(len(known), generator=generator)[:size]]


def draw_anchors(labels: Tensor, count: int, generator: torch.Generator, labelled: bool, paired: bool) -> Tensor:
    """`count` positions, each used once before one is used again; with a label, with a class-mate, if asked.

    Raises `DataError` where there is no such image.
    """
    allowed = labels >= 0 if labelled else torch.ones_like(labels, dtype=torch.bool)
    if paired:
        _, numbers, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
        allowed &= sizes[numbers] > 1
    positions = allowed.nonzero().squeeze(1)
    if len(positions) == 0:
        raise DataError(
            f"tuples: none of {len(labels)} training images has a class-mate to be its positive; set method.positives=false"
        )
    rounds = -(-count // len(positions))
    order = torch.cat([torch.randperm(len(positions), generator=generator) for _ in range(rounds)])
    return positions[order[:count]]


def draw_pairs(pairs: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the given pairs [P, 2] whose pictures have labels, each used once before one is used again (AML, spec 2.6).

    Raises `DataError` where there is none.
    """
    known = pairs[(labels[pairs] >= 0).all(dim=1)]
    if len(known) == 0:
        raise DataError("tuples: none of the data set's pairs has both of its pictures, with labels, in the training part")
    rounds = -(-count // len(known))
    order = torch.cat([torch.randperm(len(known), generator=generator) for _ in range(rounds)])
    return known[order[:count]]


def draw_positives(anchors: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform class-mate of each anchor, never the anchor itself."""
    _, numbers, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    order = numbers.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    first = sizes.cumsum(0) - sizes
    own, start = numbers[anchors], first[numbers[anchors]]
    drawn = (torch.rand(len(anchors), generator=generator, dtype=torch.float64) * (sizes[own] - 1)).long()
    drawn += drawn >= rank[anchors] - start
    positives: Tensor = order[start + drawn]
    return positives
