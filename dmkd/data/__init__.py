"""Data sets, splits, views and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Limit, OneOf

LANDMARKS = ("roxford5k", "rparis6k", "oxford5k", "paris6k")
"""Landmark test sets: queries cut to boxes against a database, for networks trained on other pictures."""


@dataclass(frozen=True)
class Quality:
    """What one side, the student or the teacher, sees of a picture."""

    degraded_size: int = 0
    """Its square view is reduced to this side in pixels and enlarged again; 0: not degraded."""
    boxes: bool = False
    """Pictures are cut to their object's box first."""


CLEAN = Quality()
"""The whole picture as it is."""


@dataclass(frozen=True)
class Data:
    """Which pictures, which part of them, what training is told of their labels, and what each side sees of them."""

    name: str = "folder"
    """A data set of `dmkd datasets`: folder, manifest, signs, cub200, cars196, sop, inshop, ..."""
    root: str = ""
    """Its folder (or manifest file); empty: `$DMKD_DATA/<name>`."""
    validation: Annotated[float, Limit(minimum=0, below=1)] = 0.2
    """Share of the training *classes* held out for validation (the search); 0: train on all of them (the final stage)."""
    validation_order: Annotated[str, OneOf(("hash", "sorted"))] = "hash"
    """Which classes are held out: hash: drawn by `split_seed`; sorted: the last ones in the data set's order (RAML: with
    validation=0.5 the second half of the training classes)."""
    folds: Annotated[int, Limit(minimum=0)] = 0
    """Class-disjoint folds of the training classes; 0: one split by `validation`."""
    fold: Annotated[int, Limit(minimum=0)] = 0
    """Which fold is held out."""
    split_seed: int = 0
    """Draws the validation classes and the folds; not the run's seed, so that seeds share one split."""
    protocol: Annotated[str, OneOf(("plain", "strict"))] = "plain"
    """strict: gallery images of the query's own group (manifest column) are junk."""
    transform: Annotated[str, OneOf(("centre_crop", "max_side"))] = "centre_crop"
    """Test transform, and training without augmentation: a centre square, or the whole picture, its longer side reduced to the
    resolution, never enlarged, its ratio kept (landmarks: Budnik & Avrithis, 362). Sizes then differ within a batch."""
    crop_ratio: Annotated[float, Limit(above=0, maximum=1)] = 0.875
    """centre_crop: short side to round(resolution / crop_ratio), then the centre square (224 of 256)."""
    workers: Annotated[int, Limit(minimum=0)] = 0
    """Loading processes; 0: load in the training process."""
    view_short_side: Annotated[int, Limit(minimum=0)] = 0
    """Cut augmented training views from pictures reduced to this short side once (256 serves views of 224: input nearly twice as
    fast and a fifth of the disk, but slightly other pixels); 0: from whole pictures. Tests always see whole pictures."""
    device_views: bool = False
    """Keep the training pictures as bytes on the GPU that trains and make augmented views there, a batch at a time (crops at most
    1 of 255 apart), where they take at most half of its free memory. Else, and for the test transform, the host makes the views,
    with a warning. `workers` then only read the pictures once. Not measured on a GPU yet; on a CPU (within
    `$DMKD_PICTURE_CACHE_MB`) slower than without."""
    max_classes: Annotated[int, Limit(minimum=0)] = 0
    """Keep the first so many training classes and as many test classes (small runs); 0: all."""
    render_size: Annotated[int, Limit(minimum=16, maximum=2048)] = 128
    """Side in pixels at which drawn data sets (signs) are rendered."""
    labelled: Annotated[float, Limit(above=0, maximum=1)] = 1.0
    """Share of each training class's pictures whose label is kept (Yu et al. 2019, Sec. 5.2: 0.5), at least two; drawn by a hash
    of split_seed, class and path. The other labels are withheld: -1 in training. Validation and test keep theirs."""
    use: Annotated[str, OneOf(("all", "labelled", "unlabelled"))] = "all"
    """Which training pictures are seen, where labels are withheld: the rows of Yu et al.'s Table 3."""
    label_noise: Annotated[float, Limit(minimum=0, below=1)] = 0.0
    """Probability that a training label is exchanged for another training class's, drawn uniformly (Zeng et al., Table 9:
    0.1 .. 0.4). Validation classes are cut before and stay clean."""
    noise_seed: Annotated[int, Limit(minimum=0)] = 0
    """Draws the exchanged labels; a run with less noise exchanges some of those that one with more does."""
    degradation: Annotated[str, OneOf(("none", "low_resolution"))] = "none"
    """What the student sees in training and in test; a pretrained teacher sees clean pictures (Yu et al. 2019, Sec. 5.4)."""
    degraded_size: Annotated[int, Limit(minimum=1)] = 50
    """low_resolution: the student's view is reduced to a square of so many pixels, then enlarged to its resolution again."""
    use_boxes: Annotated[str, OneOf(("none", "all", "teacher"))] = "none"
    """Who sees pictures cut to their boxes: nobody, both sides, or a pretrained teacher alone (Sec. 5.4, "unlocalized")."""

    def quality(self, side: str) -> Quality:
        """What "student" or "teacher" (a pretrained one) sees, in training and in test."""
        teacher = side == "teacher"
        size = self.degraded_size if self.degradation == "low_resolution" and not teacher else 0
        return Quality(size, self.use_boxes == "all" or (teacher and self.use_boxes == "teacher"))

    @property
    def qualities(self) -> tuple[Quality, Quality]:
        """Those of the student and of the teacher."""
        return self.quality("student"), self.quality("teacher")
