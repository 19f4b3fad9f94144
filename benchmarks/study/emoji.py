"""The data of the shipped results as a manifest: `python -m benchmarks.study.emoji ROOT --to FOLDER`.

ROOT holds `classes.csv` (class, split) and `images/<class>/<style>.png`, one drawing a vendor. Vendors that appear twice with
near-duplicates make one group.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from pathlib import Path

SAME_VENDOR = {"noto-v1": "noto", "fluent-emoji-flat": "fluent-emoji", "emojione-v1": "emojione"}
VALIDATION, TEST = 276, 400
"""Training classes held out while tuning, and test classes kept; the first in the order of a hash of their names."""


def write_manifest(root: Path, folder: Path) -> int:
    """`folder/manifest.csv` beside a link to ROOT's images; returns the number of pictures."""
    with (root / "classes.csv").open(encoding="utf-8", newline="") as stream:
        classes = sorted(csv.DictReader(stream), key=lambda row: hashlib.sha256(row["class"].encode()).hexdigest())
    train = [row["class"] for row in classes if row["split"] == "train"]
    test = [row["class"] for row in classes if row["split"] == "test"][:TEST]
    held = set(train[:VALIDATION])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to((root / "images").resolve())
    rows = [
        (f"images/{name}/{file.name}", name, SAME_VENDOR.get(file.stem, file.stem), "val" if name in held else split)
        for split, names in (("train", train), ("test", test))
        for name in names
        for file in sorted((root / "images" / name).iterdir())
    ]
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("path", "class", "group", "split"), *rows])
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.emoji", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    chosen = parser.parse_args()
    print(f"{write_manifest(chosen.root, chosen.to)} pictures: {chosen.to / 'manifest.csv'}")
