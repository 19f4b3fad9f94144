"""Folds and seeds as parts of a trial: each is a run of its own, their mean is the trial's score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dmkd.config import Config
from sweeps.space import Values

CONFIDENCE = 0.95
"""One-sided, that a configuration which is dropped would not have reached the best."""


@dataclass(frozen=True)
class Piece:
    """One run of a trial."""

    name: str = ""
    """Ends the run's key, as in "fold1-seed0"; empty where a trial is one run."""
    values: Values = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: "fold 1, seed 0"."""
        return self.name.replace("fold", "fold ").replace("seed", "seed ").replace("-", ", ")


WHOLE = Piece()
"""A trial that is one run."""


def make_pieces(base: Config, seeds: int = 1) -> tuple[Piece, ...]:
    """Every fold (`data.folds`) with every seed, the first seed's folds first."""
    folds = range(base.data.folds) if base.data.folds else (base.data.fold,)
    pairs = [(fold, base.seed + offset) for offset in range(seeds) for fold in folds]
    if len(pairs) == 1:
        return (WHOLE,)
    return tuple(Piece(f"fold{fold}-seed{seed}", {"data.fold": fold, "seed": seed}) for fold, seed in pairs)


def taught(pieces: Sequence[Piece], teachers: Mapping[int, str]) -> tuple[Piece, ...]:
    """The pieces, each learning from the teacher (a checkpoint folder) that was trained without its fold's classes."""
    own = {fold: {"teacher.checkpoint": folder} for fold, folder in teachers.items()}
    return tuple(replace(piece, values=piece.values | own.get(piece.values.get("data.fold", -1), {})) for piece in pieces)


def hopeless(mine: Mapping[int, float], complete: Sequence[Sequence[float]], pieces: int) -> str:
    """Why a trial with these scores (by piece) cannot be expected to reach the best complete one; empty where it may.

    The comparison is paired: scores of the same fold and seed are subtracted, so that a hard fold counts for nothing. With d_i
    the differences to the best, of which k of P are known, their mean over all P lies within s t sqrt(1/k - 1/P) of that of the
    known; s is the deviation of such differences between pieces, pooled over the complete trials, t Student's quantile.
    """
    from scipy.stats import t

    freedom = (len(complete) - 1) * (pieces - 1)
    if freedom < 1 or not mine or len(mine) >= pieces:
        return ""
    best = max(complete, key=sum)
    spread = math.sqrt(sum(_scatter(scores, best) for scores in complete) / freedom)
    gap = sum(value - best[piece] for piece, value in mine.items()) / len(mine)
    margin = float(t.ppf(CONFIDENCE, freedom)) * spread * math.sqrt(1 / len(mine) - 1 / pieces)
    if gap + margin >= 0:
        return ""
    return f"{-gap:.4f} behind the best on the same folds, more than the {margin:.4f} that the others could make up"


def _scatter(scores: Sequence[float], best: Sequence[float]) -> float:
    """Squared deviations of the paired differences from their mean."""
    differences = [one - other for one, other in zip(scores, best, strict=True)]
    mean = sum(differences) / len(differences)
    return sum((difference - mean) ** 2 for difference in differences)
