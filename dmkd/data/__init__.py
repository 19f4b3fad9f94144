"""Data sets, splits, views and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Limit, OneOf


@dataclass(frozen=True)
class Data:
    """Which pictures, and which part of them."""

    name: str = "folder"
    """A data set of `dmkd datasets`: folder, manifest, cars196, signs, ..."""
    root: str = ""
    """Its folder (or manifest file); empty: `$DMKD_DATA/<name>`."""
    validation: Annotated[float, Limit(minimum=0, below=1)] = 0.2
    """Share of the training *classes* held out for validation (the search); 0: train on all of them (the final stage)."""
    folds: Annotated[int, Limit(minimum=0)] = 0
    """Class-disjoint folds of the training classes; 0: one split by `validation`."""
    fold: Annotated[int, Limit(minimum=0)] = 0
    """Which fold is held out."""
    split_seed: int = 0
    """Draws the validation classes and the folds; not the run's seed, so that seeds share one split."""
    protocol: Annotated[str, OneOf(("plain", "strict"))] = "plain"
    """strict: gallery images of the query's own group (manifest column) are junk."""
    crop_ratio: Annotated[float, Limit(above=0, maximum=1)] = 0.875
    """Test transform: short side to round(resolution / crop_ratio), then the centre square (224 of 256)."""
    workers: Annotated[int, Limit(minimum=0)] = 0
    """Loading processes; 0: load in the training process."""
    max_classes: Annotated[int, Limit(minimum=0)] = 0
    """Keep the first so many training classes and as many test classes (small runs); 0: all."""
    render_size: Annotated[int, Limit(minimum=16, maximum=2048)] = 128
    """Side in pixels at which drawn data sets (signs) are rendered."""
