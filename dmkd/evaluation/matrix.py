"""Every query resolution against every gallery resolution, in the gallery of the student and in that of the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import Outcomes


@dataclass(frozen=True)
class Cell:
    """One search: who embeds each side, at which resolution."""

    queries: Side
    gallery: Side
    asymmetric: bool

    def role(self, name: str) -> str:
        """`test_q112_g224`, or `test_asymmetric_q112_g448` where the teacher embeds the gallery."""
        return f"{name}{'_asymmetric' * self.asymmetric}_q{self.queries.resolution}_g{self.gallery.resolution}"


def cells(
    student: Side, galleries: Mapping[bool, Side], queries: Sequence[int] = (), gallery: Sequence[int] = ()
) -> Iterator[Cell]:
    """The cells of the matrix, gallery by gallery.

    `galleries`: who embeds the gallery, by whether that is another network (asymmetric search). `queries`, `gallery`: the
    resolutions; where none is named, the student's own, and the one of the network that embeds the gallery.
    """
    for asymmetric, side in galleries.items():
        for query in dict.fromkeys(queries or [student.resolution]):
            for shown in dict.fromkeys(gallery or [side.resolution]):
                yield Cell(replace(student, resolution=query), replace(side, resolution=shown), asymmetric)


class Embedded:
    """The embeddings of one part by side, each made once."""

    def __init__(self, measure: Measure, known: Mapping[Side, Tensor] | None = None) -> None:
        self._measure, self._kept = measure, dict(known or {})

    def __getitem__(self, side: Side) -> Tensor:
        if side not in self._kept:
            self._kept[side] = self._measure.embed(side)
        return self._kept[side]


def measure_cells(
    measure: Measure, name: str, asked: Sequence[Cell], known: Mapping[Side, Tensor] | None = None
) -> tuple[dict[str, float], dict[str, Outcomes]]:
    """`<role>/<metric>` of every cell, and the outcomes by role (`Cell.role`); each side is embedded once.

    A picture never finds itself, nor its copy at another resolution or by another network. `known`: embeddings made before.
    Raises `ShapeError` where the networks do not share a space.
    """
    embedded = Embedded(measure, known)
    metrics: dict[str, float] = {}
    outcomes: dict[str, Outcomes] = {}
    for cell in asked:
        role = cell.role(name)
        scores, outcomes[role] = measure.compare(embedded[cell.queries], embedded[cell.gallery])
        metrics |= {f"{role}/{metric}": value for metric, value in scores.items()}
    return metrics, outcomes
