"""Landmark test sets: queries cut to boxes against a database of whole pictures, at several scales, whitened or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmkd.data import CLEAN, LANDMARKS, Data, Quality
from dmkd.data.datasets import dataset_root
from dmkd.data.pictures import Labels, Pictures, seal
from dmkd.data.revisited import LandmarkTest, read_landmarks
from dmkd.data.sfm120k import whitening_listing
from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import Outcomes
from dmkd.evaluation.revisited import PROTOCOLS, revisited_ranks
from dmkd.evaluation.whitening import learn_whitening, whiten

K = (1, 5, 10)
"""Depths of mP@K (Radenovic et al. 2018)."""
BOXED = Quality(boxes=True)
"""Queries are cut to their boxes."""

Whitening = tuple[Tensor, Tensor]
"""Mean [D], projection [D, D]."""


Mask: TypeAlias = NDArray[np.bool_]
Masks: TypeAlias = tuple[Mask, Mask, Mask]
"""Easy, hard, junk, each [Q, database] bool."""


@dataclass(frozen=True, eq=False)
class LandmarkPictures:
    """A test set whose pictures are all there."""

    test: LandmarkTest
    pictures: Pictures

    @property
    def queries(self) -> range:
        """Positions of the queries among the pictures."""
        return range(self.test.database, len(self.pictures))

    def readable(self, masks: Masks) -> Masks:
        """Easy, hard and junk where broken pictures of the database are junk, and broken queries have no positive (no score)."""
        read = self.pictures.readable()
        asked, shown = read[self.test.database :, None], read[None, : self.test.database]
        easy, hard, junk = masks
        return easy & asked & shown, hard & asked & shown, junk | ~shown


class LandmarkTests:
    """The landmark tests of an evaluation, their files read and found complete.

    Raises `DataError` where a test set, or what whitening is learned from, is missing or broken.
    """

    def __init__(self, data: Data, evaluation: Evaluation, device: torch.device) -> None:
        self._data, self._evaluation, self._device = data, evaluation, device
        self._tests = [_load(name, evaluation) for name in evaluation.landmarks]
        self._pairs = _whitening_pictures(data, evaluation) if evaluation.landmarks and evaluation.whitening == "pairs" else None
        self._learned: dict[tuple[int, int], Whitening] = {}

    def measure(self, role: str, queries: Side, database: Side) -> tuple[dict[str, float], dict[str, Outcomes]]:
        """Metrics `<role>/roxford5k_<easy, medium, hard>/<map, mp_at_k>` (`<role>/oxford5k/...`), and the queries' outcomes.

        `queries` and `database` are who embeds them, each with the longer side of its pictures; whitening is learned in the
        space of `database`. Outcomes are keyed `<role>_roxford5k_medium`, ...; their label is the landmark. Broken pictures are
        left out and counted, `<role>/roxford5k/skipped`.
        """
        metrics: dict[str, float] = {}
        outcomes: dict[str, Outcomes] = {}
        for tested in self._tests:
            name = tested.pictures.name
            similarity = self._similarity(tested, queries, database)
            metrics |= {f"{role}/{name}/skipped": count for count in tested.pictures.skipped.values()}
            for suffix, mode, masks in _protocols(tested.test):
                told, found = _score(similarity, tested.readable(masks), mode, tested.test)
                metrics |= {f"{role}/{name}{suffix}/{metric}": value for metric, value in told.items()}
                outcomes[f"{role}_{name}{suffix}"] = found
        return metrics, outcomes

    def _similarity(self, tested: LandmarkPictures, queries: Side, database: Side) -> Tensor:
        """[Q, database]"""
        left = self._embed(tested.pictures, queries, BOXED, tested.queries)
        right = self._embed(tested.pictures, database, CLEAN, range(tested.test.database))
        if left.shape[1] != right.shape[1]:
            raise DataError(f"queries have {left.shape[1]} dimensions, the database {right.shape[1]}: they need one space")
        if self._pairs is not None:
            mean, projection = self._whitening(database, *self._pairs)
            left, right = (torch.as_tensor(whiten(side, mean, projection)) for side in (left, right))
        return left @ right.T

    def _embed(self, pictures: Pictures, side: Side, quality: Quality, positions: range | None = None) -> Tensor:
        measure = Measure(pictures, self._data, self._evaluation, self._device)
        return measure.embed_whole(side, self._evaluation.scales, quality, positions)

    def _whitening(self, side: Side, pictures: Pictures, pairs: Labels) -> Whitening:
        """Learned once for each network and size, as it is when first asked for."""
        key = (id(side.network), side.resolution)
        if key not in self._learned:
            embedded = self._embed(pictures, side, CLEAN)
            whole = pairs[pictures.readable()[pairs].all(axis=1)]
            learned = learn_whitening(embedded, whole[:, 0], whole[:, 1])
            self._learned[key] = torch.as_tensor(learned[0]), torch.as_tensor(learned[1])
        return self._learned[key]


def _protocols(test: LandmarkTest) -> list[tuple[str, str, Masks]]:
    """(suffix of the name, mode, masks) of each protocol of a test set; the original ones are "easy" without hard pictures."""
    if test.revisited:
        masks = (test.mask("easy"), test.mask("hard"), test.mask("junk"))
        return [(f"_{mode}", mode, masks) for mode in PROTOCOLS if _answered(mode, masks)]
    return [("", "easy", (test.mask("ok"), test.mask(), test.mask("junk")))]


def _answered(mode: str, masks: Masks) -> bool:
    """Whether a query has a positive under a protocol."""
    named = dict(zip(("easy", "hard", "junk"), masks, strict=True))
    return any(bool(named[name].any()) for name in PROTOCOLS[mode][0])


def _score(similarity: Tensor, masks: Masks, mode: str, test: LandmarkTest) -> tuple[dict[str, float], Outcomes]:
    ranks = revisited_ranks(similarity, *masks, mode=mode)
    ap = ranks.average_precision("trapezoidal")
    metrics = {"map": float(ap.mean())} | {f"mp_at_{k}": float(ranks.precision(k).mean()) for k in K}
    label = np.array(test.landmark)[ranks.query]
    return metrics, Outcomes(ranks.query, label, ranks.first(), ap, ranks.average_precision_at_r())


def _load(name: str, evaluation: Evaluation) -> LandmarkPictures:
    test = read_landmarks(name, landmark_root(name, evaluation))
    return LandmarkPictures(test, seal(test.listing))


def landmark_root(name: str, evaluation: Evaluation) -> Path:
    """The folder of a landmark test set. Raises `DataError` naming where it was looked for."""
    if not evaluation.landmark_root:
        return dataset_root(Data(name=name))
    root = Path(evaluation.landmark_root).expanduser()
    places = [root / name, root / "test" / name]
    return next((place for place in places if place.is_dir()), root if root.name == name else places[0])


def _whitening_pictures(data: Data, evaluation: Evaluation) -> tuple[Pictures, Labels]:
    """The pictures that whitening is learned from, and which of them match, [P, 2]."""
    own = data.root if data.name == "sfm120k" else ""
    pictures = seal(whitening_listing(dataset_root(Data(name="sfm120k", root=evaluation.whitening_root or own))))
    pairs = np.zeros((0, 2), dtype=np.int64) if pictures.pairs is None else pictures.pairs
    if not evaluation.whitening_pairs or evaluation.whitening_pairs >= len(pairs):
        return pictures, pairs
    spread = pairs[np.linspace(0, len(pairs) - 1, evaluation.whitening_pairs).round().astype(np.int64)]
    chosen = np.unique(spread)
    return pictures.part(chosen), np.searchsorted(chosen, spread)


def landmark_evaluation(data: Data, evaluation: Evaluation) -> Evaluation:
    """The evaluation of a data set that is itself a landmark test: of that one alone; of any other as it is."""
    if data.name not in LANDMARKS:
        return evaluation
    return replace(evaluation, landmarks=(data.name,), landmark_root=str(dataset_root(data)))
