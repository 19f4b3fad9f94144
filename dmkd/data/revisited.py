"""Oxford5k and Paris6k, as published (Philbin et al. 2007, 2008) and revisited (Radenovic et al. 2018): landmark test sets.

A test set is a database of whole pictures and queries cut to a box, with lists of positions for each query: easy, hard and junk
(revisited), or ok (good and ok) and junk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmkd.data import LANDMARKS, Data
from dmkd.data.annotations import entry, positions, texts
from dmkd.data.pictures import DatasetInfo, Labels, Listing, make_listing
from dmkd.data.unpickle import read_pickle
from dmkd.errors import DataError


@dataclass(frozen=True, eq=False)
class LandmarkTest:
    """A test set as its file describes it."""

    listing: Listing
    """The database's pictures, then the queries with their boxes; the classes are "database" and "query"."""
    database: int
    """How many of the listing belong to the database."""
    landmark: tuple[str, ...]
    """[Q] what each query shows, by its file's name ("all_souls")."""
    lists: Mapping[str, tuple[Labels, ...]]
    """"easy", "hard" and "junk" (revisited), or "ok" and "junk": for each query, positions in the database."""

    @property
    def revisited(self) -> bool:
        """Whether it has the easy, medium and hard protocols."""
        return "easy" in self.lists

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """[Q, database] whether a picture is on one of these lists of a query."""
        mask = np.zeros((len(self.landmark), self.database), dtype=np.bool_)
        for name in names:
            for query, listed in enumerate(self.lists.get(name, ())):
                mask[query, listed] = True
        return mask


def read_landmarks(name: str, root: Path) -> LandmarkTest:
    """The test set `name` of `root`/gnd_`name`.pkl; no picture is opened. Raises `DataError` for a file that is not one."""
    file = root / f"gnd_{name}.pkl"
    if not file.is_file():
        raise DataError(f"{name}: looked for {file.absolute()}, which does not exist; wanted {_layout(name)}")
    content = read_pickle(file)
    images, queries = (texts(entry(content, key, file), f"{file}, {key}") for key in ("imlist", "qimlist"))
    truth = entry(content, "gnd", file)
    if not isinstance(truth, list) or len(truth) != len(queries) or not images or not queries:
        found = f"{len(truth)} entries" if isinstance(truth, list) else type(truth).__name__
        raise DataError(f"{file}, gnd: found {found}, wanted one for each of {len(queries)} queries (and {len(images)} pictures)")
    keys = ("easy", "hard", "junk") if name.startswith("r") else ("ok", "junk")
    lists = {
        key: tuple(positions(entry(row, key, f"{file}, gnd"), len(images), f"{file}, {key}") for row in truth) for key in keys
    }
    boxes = [(0,) * 4] * len(images) + [_box(row, f"{file}, gnd") for row in truth]
    rows = [*((f"jpg/{image}.jpg", "database") for image in images), *((f"jpg/{image}.jpg", "query") for image in queries)]
    classes = ("database", "query")
    listing = make_listing(name, root, rows, classes=classes, split=["test"] * len(rows), boxes=boxes)
    return LandmarkTest(listing, len(images), tuple(query.rpartition("_")[0] or query for query in queries), lists)


def _box(row: Any, where: str) -> tuple[int, ...]:
    """Left, top, width and height of the query's object; four zeros where the file names no box: the whole picture."""
    if "bbx" not in row:
        return (0,) * 4
    try:
        left, top, right, bottom = (round(float(side)) for side in np.asarray(row["bbx"]).reshape(-1).tolist())
    except (TypeError, ValueError, OverflowError):
        left = top = right = bottom = 0
    left, top = max(0, left), max(0, top)
    if right <= left or bottom <= top:
        raise DataError(f"{where}: found the box {row['bbx']!r:.80}, wanted left, top, right, bottom")
    return left, top, right - left, bottom - top


def landmark_listing(root: Path, data: Data, *, name: str) -> Listing:
    """All pictures of a test set: its database, then its queries."""
    return read_landmarks(name, root).listing


def _layout(name: str) -> str:
    return f"gnd_{name}.pkl (imlist, qimlist, gnd) + jpg/<picture>.jpg"


_PLACES = {
    "oxford": "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/ (pictures)",
    "paris": "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/ (pictures)",
}
_COUNTS = {"roxford5k": (4993, 70), "rparis6k": (6322, 70), "oxford5k": (5063, 55), "paris6k": (6392, 55)}
"""Pictures of the database, queries."""


def _info(name: str) -> DatasetInfo:
    (database, queries), place = _COUNTS[name], _PLACES["oxford" if "oxford" in name else "paris"]
    title = ("Revisited " if name.startswith("r") else "") + ("Oxford5k" if "oxford" in name else "Paris6k")
    return DatasetInfo(
        name=name,
        summary=f"{title}: landmark test set, {database} pictures and {queries} queries (cut to boxes); for testing alone",
        layout=_layout(name),
        source=f"{place}, http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/{name}/gnd_{name}.pkl",
        licence="Flickr pictures under their owners' terms; published for research",
        listing=partial(landmark_listing, name=name),
        images=database + queries,
    )


INFOS = tuple(map(_info, LANDMARKS))
