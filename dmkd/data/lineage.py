"""Which classes a network was trained on, small enough to travel with its weights: a teacher must not know the test classes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmkd.data.splits import Parts

BYTES = 4
"""Of each class name's hash: 12,000 classes are 64 kB, and two names agree by chance once in 4e9."""


def lineage(parts: Parts) -> dict[str, Any]:
    """What `model.json` says of the pictures that a network was trained on: data set, split, and its training classes.

    `training_classes.sha256` [16 hexadecimal digits] names the set of classes, `marks` holds a hash of each name (base64).
    """
    names = parts.train.classes
    marks = sorted(_mark(name) for name in names)
    return {
        "dataset": parts.train.name,
        "fingerprint": parts.fingerprint,
        "training_classes": {
            "count": len(names),
            "sha256": hashlib.sha256(b"".join(marks)).hexdigest()[:16],
            "marks": base64.b64encode(b"".join(marks)).decode(),
        },
    }


def known_classes(found: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Those of `classes` that a network with this lineage was trained on. Raises `ValueError` where the lineage is damaged."""
    content = base64.b64decode(str(found["training_classes"]["marks"]), validate=True)
    marks = {content[start : start + BYTES] for start in range(0, len(content), BYTES)}
    return [name for name in classes if _mark(name) in marks]


def _mark(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:BYTES]
