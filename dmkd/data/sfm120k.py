"""retrieval-SfM-120k (Radenovic et al. 2018): landmark pictures grouped by 3D model, with pairs known to show the same part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dmkd.data import Data
from dmkd.data.annotations import entry, positions, texts
from dmkd.data.pictures import DatasetInfo, Labels, Listing, make_listing
from dmkd.data.unpickle import read_pickle
from dmkd.errors import DataError

NAME = "retrieval-SfM-120k"
LAYOUT = (
    f"{NAME}.pkl (cids, cluster, qidxs and pidxs of train and val) + ims/90/78/56/12..567890 (a picture lies below its name's "
    f"last three pairs of digits); for whitening {NAME}-whiten.pkl, where there is one"
)


def sfm_listing(root: Path, data: Data) -> Listing:
    """Training and validation pictures; a class is a cluster (3D model) of a part; `pairs` are the file's. Raises `DataError`."""
    base = _base(root)
    file = base / f"{NAME}.pkl"
    content = read_pickle(file)
    rows: list[tuple[str, str]] = []
    split: list[str] = []
    pairs = []
    for part in ("train", "val"):
        listed = entry(content, part, file)
        where = f"{file}, {part}"
        names = texts(entry(listed, "cids", where), f"{where}, cids")
        clusters = positions(entry(listed, "cluster", where), 2**62, f"{where}, cluster")
        if len(clusters) != len(names):
            raise DataError(f"{where}: found {len(names)} cids and {len(clusters)} clusters, wanted one for each")
        pairs.append(_pairs(listed, len(names), where) + len(rows))
        rows += [(_path(name, where), f"{part} {cluster:05d}") for name, cluster in zip(names, clusters.tolist(), strict=True)]
        split += [part] * len(names)
    return make_listing("sfm120k", base, rows, split=split, pairs=np.concatenate(pairs))


def whitening_listing(root: Path) -> Listing:
    """The pictures and pairs from which whitening is learned: those of the whitening file, else the training part's.

    All are of one class. Raises `DataError` where neither file is there.
    """
    base = _base(root)
    file = base / f"{NAME}-whiten.pkl"
    listed, where = (read_pickle(file), str(file)) if file.is_file() else _training(base)
    names = texts(entry(listed, "cids", where), f"{where}, cids")
    rows = [(_path(name, where), "landmarks") for name in names]
    return make_listing("sfm120k", base, rows, pairs=_pairs(listed, len(names), where))


def _training(base: Path) -> tuple[Any, str]:
    file = base / f"{NAME}.pkl"
    return entry(read_pickle(file), "train", file), f"{file}, train"


def _base(root: Path) -> Path:
    """`root`, or the folder in it that carries the name, alone or below "train" (as the authors' own scripts leave it)."""
    for base in (root, root / NAME, root / "train" / NAME):
        if (base / f"{NAME}.pkl").is_file() or (base / f"{NAME}-whiten.pkl").is_file():
            return base
    raise DataError(f"sfm120k: looked for {(root / f'{NAME}.pkl').absolute()}, which does not exist; wanted {LAYOUT}")


def _path(name: str, where: str) -> str:
    if len(name) < 6 or not name.isalnum():
        raise DataError(f"{where}: found the picture name {name!r}, wanted at least 6 letters or digits and nothing else")
    return f"ims/{name[-2:]}/{name[-4:-2]}/{name[-6:-4]}/{name}"


def _pairs(listed: Any, count: int, where: str) -> Labels:
    queries, found = (positions(entry(listed, key, where), count, f"{where}, {key}") for key in ("qidxs", "pidxs"))
    if len(queries) != len(found) or not len(queries):
        raise DataError(f"{where}: found {len(queries)} qidxs and {len(found)} pidxs, wanted pairs")
    return np.stack([queries, found], axis=1)


INFO = DatasetInfo(
    name="sfm120k",
    summary=(
        "retrieval-SfM-120k: landmarks from 3D reconstructions, 91,642 training and 6,403 validation pictures, with matching "
        "pairs (the papers count the reconstructions' 133,659 and 30,012)"
    ),
    layout=LAYOUT,
    source="http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/ (ims/ims.tar.gz and dbs/)",
    licence="Flickr pictures under their owners' terms; the authors publish the lists for research",
    listing=sfm_listing,
    images=98045,
    train_images=91642,
)
