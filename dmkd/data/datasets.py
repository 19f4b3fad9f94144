"""The table of data sets, and where their folders are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from dmkd.data import Data, cars196, cub200, folder, inshop, manifest, revisited, sfm120k, signs, sop
from dmkd.data.pictures import DatasetInfo, Listing, Pictures, seal
from dmkd.data.record import without_broken
from dmkd.data.staging import is_address, staged
from dmkd.errors import DataError
from dmkd.space import nearest

__all__ = ["DATASETS", "DatasetInfo", "Listing", "Pictures", "dataset_info", "dataset_root", "list_dataset", "load_dataset"]

PUBLISHED = (cub200.INFO, cars196.INFO, sop.INFO, inshop.INFO, sfm120k.INFO, *revisited.INFOS)
DATASETS: dict[str, DatasetInfo] = {info.name: info for info in (folder.FOLDER, manifest.MANIFEST, signs.INFO, *PUBLISHED)}
"""Every data set of `dmkd datasets`, by name."""


def dataset_info(name: str) -> DatasetInfo:
    """The row of a data set. Raises `DataError` with the nearest name."""
    if name not in DATASETS:
        raise DataError(f"data.name: unknown data set {name!r}: {nearest(name, DATASETS)}")
    return DATASETS[name]


def dataset_root(data: Data) -> Path:
    """Where a data set lies: `data.root` (an address: its copy here), else `$DMKD_DATA/<name>`, else where dmkd makes it itself.

    Raises `DataError` naming both places, the expected layout and where to get the data.
    """
    info = dataset_info(data.name)
    if is_address(data.root):
        return staged(data.root)
    if data.root:
        return Path(data.root).expanduser()
    shared = os.environ.get("DMKD_DATA", "")
    place = Path(shared).expanduser() / data.name
    if shared and place.exists():
        return place
    if info.default_root is not None:
        return info.default_root()
    looked = f"no {place} ($DMKD_DATA/{data.name})" if shared else "$DMKD_DATA is not set"
    raise DataError(f"{data.name}: data.root is empty and {looked}; give its folder (--data-root, data.root): {_wanted(info)}")


def read_listing(data: Data) -> Listing:
    """Names and classes of a data set, what is wrong among its `faults`; its files may be missing. Raises `DataError`."""
    info, root = dataset_info(data.name), dataset_root(data)
    if info.default_root is None and not root.exists():
        raise DataError(f"{data.name}: looked in {root.absolute()}, which does not exist; wanted {_wanted(info)}")
    return info.listing(root, data)


def list_dataset(data: Data) -> Listing:
    """`read_listing`, but any fault raises `DataError`: the first one, and how many there are."""
    listing = read_listing(data)
    if listing.faults:
        more = len(listing.faults) - 1
        rest = f" (and {more} more faults: `dmkd prepare {data.name} --root {dataset_root(data)}` lists them)" if more else ""
        raise DataError(listing.faults[0] + rest)
    return listing


def load_dataset(data: Data) -> Pictures:
    """The pictures of `data.name` that can be read; the others are left out, counted and named in a warning.

    Raises `DataError`: unknown name, missing or wrong folder, missing pictures, more than half of them broken.
    """
    return without_broken(seal(list_dataset(data)))


def _wanted(info: DatasetInfo) -> str:
    return f"{info.layout} (from: {info.source})"
