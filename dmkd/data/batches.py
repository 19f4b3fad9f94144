"""How training batches are composed: P classes x K images, plain shuffled images, or tuples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Limit, OneOf


@dataclass(frozen=True)
class Batches:
    """Composition of a batch. Defaults are those of S2SD and OBD-SD: 56 class draws x 2 images, both with replacement."""

    kind: Annotated[str, OneOf(("classes", "plain", "tuples"))] = "classes"
    size: Annotated[int, Limit(minimum=1)] = 112
    """Images in a batch (before views are counted); for tuples, tuples in a batch."""
    images_per_class: Annotated[int, Limit(minimum=1)] = 2
    replacement: bool = True
    """Draw classes and images with replacement (Revisiting DML); without: a permutation of classes is cut sequentially (Yu)."""
    iterations: Annotated[int, Limit(minimum=0)] = 0
    """Batches in an epoch; 0: floor(images / size)."""
    drop_last: bool = True
    columns: Annotated[int, Limit(minimum=0)] = 1
    """For tuples: how many leading columns are drawn as pictures (1: the anchor alone; the rest are stored features)."""
