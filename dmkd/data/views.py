"""What the loader draws of a picture: augmented views at the student's and at the teacher's resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Limit, OneOf


@dataclass(frozen=True)
class Views:
    """Augmentation of training pictures.

    Every view is drawn once (crop box in source coordinates, flip, jitter) and applied at both resolutions, so that student and
    teacher see the same crop; `coupled=False` draws the teacher's anew (RAML's ablation).
    """

    per_image: Annotated[int, Limit(minimum=1)] = 1
    coupled: bool = True
    augmentation: Annotated[str, OneOf(("crop_flip", "crop_flip_jitter", "none"))] = "crop_flip"
    min_scale: Annotated[float, Limit(above=0, maximum=1)] = 0.08
    """Smallest area share of the random resized crop."""
    mixup: Annotated[float, Limit(minimum=0)] = 0.0
    """Beta(a, a) of mixing with a random training picture; 0: off."""
    teacher: bool = True
    """Draw the teacher's view in each step (off where its features are stored)."""
