"""In-Shop Clothes Retrieval (Liu et al. 2016, "DeepFashion: Powering Robust Clothes Recognition and Retrieval").

Its list has three parts: train (25,882 pictures of 3,997 items), and of the 3,985 other items 14,218 queries and 12,612 gallery
pictures. In test a query is looked for among the gallery pictures alone; training items have no such roles.
"""

from __future__ import annotations

from pathlib import Path

from dmkd.data import Data
from dmkd.data.pictures import GALLERY, QUERY, DatasetInfo, Listing, make_listing
from dmkd.data.tables import find_base, read_table, without_repeats

ROLES = {"train": 0, "query": QUERY, "gallery": GALLERY}
ARCHIVE = "In-shop Clothes Retrieval Benchmark"
LAYOUT = (
    "Eval/list_eval_partition.txt (or Anno/, or beside img/) + Img/img/WOMEN/ ... (or img/), optional Anno/list_bbox_inshop.txt, "
    f"in ROOT or in 'ROOT/{ARCHIVE}'"
)
PLACES = ("Eval", "Anno", ".")
"""Folders in which releases of the archive keep their lists."""


def inshop_listing(root: Path, data: Data) -> Listing:
    """All pictures of In-Shop, classes in the order of their item numbers, roles for the test items. Raises `DataError`."""
    base = next((base for base in (root, root / ARCHIVE) if _find(base, "list_eval_partition.txt").is_file()), root)
    file = _find(base, "list_eval_partition.txt")
    wanted = f"In-Shop is expected as {LAYOUT}"
    rows, faults = read_table(file, ("image_name", "item_id", "evaluation_status"), wanted, head=2)
    rows, repeated = without_repeats(rows, 0, file)
    faults += repeated
    faults += [f"{file}: {path}: found {part!r}, wanted train, query or gallery" for path, _, part in rows if part not in ROLES]
    rows = [row for row in rows if row[2] in ROLES]
    boxes, unboxed = _boxes(_find(base, "list_bbox_inshop.txt"))
    return make_listing(
        "inshop",
        find_base(base, ("Img",), "img"),
        [(path, item) for path, item, _ in rows],
        split=["train" if part == "train" else "test" for *_, part in rows],
        role=[ROLES[part] for *_, part in rows],
        boxes=None if boxes is None else [boxes.get(path, (0, 0, 0, 0)) for path, _, _ in rows],
        faults=faults + unboxed,
    )


def _find(base: Path, name: str) -> Path:
    places = [base / folder / name for folder in PLACES]
    return next((place for place in places if place.is_file()), places[0])


def _boxes(file: Path) -> tuple[dict[str, tuple[int, ...]] | None, list[str]]:
    """left, top, width and height of the garment, where the file is there; its corners count from 1, both ends inside."""
    if not file.is_file():
        return None, []
    rows, faults = read_table(file, ("image_name", "#clothes_type", "#pose_type", "#x_1", "#y_1", "#x_2", "#y_2"), "", head=2)
    corners = {path: [int(value) for value in values] for path, _, _, *values in rows}
    return {path: (max(0, x - 1), max(0, y - 1), x2 - x + 1, y2 - y + 1) for path, (x, y, x2, y2) in corners.items()}, faults


INFO = DatasetInfo(
    name="inshop",
    summary="In-Shop (DeepFashion): 7,982 garments, 3,997 train; of the other 3,985, queries are looked for in a gallery",
    layout=LAYOUT,
    source="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (Img, Eval, Anno)",
    licence="non-commercial research only (the authors' agreement)",
    listing=inshop_listing,
    classes=7982,
    images=52712,
    train_images=25882,
    query_images=14218,
)
