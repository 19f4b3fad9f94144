"""Stanford Online Products (Oh Song et al. 2016, "Deep Metric Learning via Lifted Structured Feature Embedding").

Its own lists split it: Ebay_train.txt (11,318 products, 59,551 pictures), Ebay_test.txt (11,316 products, 60,502 pictures).
"""

from __future__ import annotations

from pathlib import Path

from dmkd.data import Data
from dmkd.data.pictures import DatasetInfo, Listing, make_listing
from dmkd.data.tables import Fields, find_base, read_table, without_repeats

COLUMNS = ("#image_id", "#class_id", "#super_class_id", "path")
LAYOUT = "Ebay_train.txt + Ebay_test.txt + bicycle_final/ ... toaster_final/, in ROOT or in ROOT/Stanford_Online_Products"


def sop_listing(root: Path, data: Data) -> Listing:
    """All pictures of Stanford Online Products, classes in the order of their numbers. Raises `DataError`."""
    base = find_base(root, ("Stanford_Online_Products",), "Ebay_train.txt")
    rows: list[Fields] = []
    split: dict[str, str] = {}
    faults: list[str] = []
    for part in ("train", "test"):
        file = base / f"Ebay_{part}.txt"
        found, wrong = read_table(file, COLUMNS, f"Stanford Online Products is expected as {LAYOUT}", head=1)
        rows += found
        faults += wrong
        split |= {row[3]: part for row in found if row[3] not in split}
    rows, repeated = without_repeats(rows, 3, base / "Ebay_test.txt")
    numbers = sorted({int(row[1]) for row in rows})
    return make_listing(
        "sop",
        base,
        [(path, f"{int(label):05d}") for _, label, _, path in rows],
        classes=[f"{number:05d}" for number in numbers],
        split=[split[row[3]] for row in rows],
        faults=faults + repeated,
    )


INFO = DatasetInfo(
    name="sop",
    summary="Stanford Online Products: 22,634 products of eBay; its own lists, 11,318 train, 11,316 test",
    layout=LAYOUT,
    source="https://cvgl.stanford.edu/projects/lifted_struct/ (Stanford_Online_Products.zip)",
    licence="none stated; the pictures belong to their eBay sellers: research use as the field does",
    listing=sop_listing,
    classes=22634,
    images=120053,
    train_images=59551,
)
