"""Miniatures of the landmark data sets in their real layouts, of real pictures (emoji as in `tests.pictures`) of many shapes."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.pictures import drawings, sign_picture

TRAIN_CLUSTERS, VAL_CLUSTERS, PER_CLUSTER = 6, 4, 3
SHAPES = [(72, 48), (48, 72), (64, 64), (56, 40)]
"""Width, height, in turn."""


def landmark(number: int, drawing: int, shape: tuple[int, int]) -> Image.Image:
    """A picture of `shape` with one drawing of a sign somewhere in it."""
    sheet = Image.new("RGB", shape, (200, 220, 240))
    sign = sign_picture(number, 40, drawing)
    sheet.paste(sign, ((shape[0] - 40) // 2, (shape[1] - 40) // 3))
    return sheet


def signs(count: int | None = None) -> list[int]:
    """Numbers of signs with enough drawings for a cluster or a landmark: the first `count`, or all 127."""
    return [number for number, row in enumerate(drawings()) if len(row) >= 4][:count]


def make_sfm120k(
    root: Path,
    *,
    whitening: bool = True,
    clusters: int = TRAIN_CLUSTERS,
    more: int = 0,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> Path:
    """retrieval-SfM-120k.pkl (protocol 2), ims/ab/cd/ef/<cid> (JPEG without a suffix), and the whitening file.

    `more` training clusters are signs of two drawings: a pair each.
    """
    numbers, pairs = signs(clusters + VAL_CLUSTERS), [n for n, row in enumerate(drawings()) if len(row) == 2][:more]
    content: dict[str, Any] = {}
    for part, chosen in {"train": [*numbers[:clusters], *pairs], "val": numbers[clusters:]}.items():
        cids, cluster, starts = [], [], []
        for label, number in enumerate(chosen):
            starts.append(len(cids))
            for drawing in range(min(PER_CLUSTER, len(drawings()[number]))):
                cid = hashlib.md5(f"{part}{number}{drawing}".encode(), usedforsecurity=False).hexdigest()
                _save_sfm(root, cid, landmark(number, drawing, shapes[(number + drawing) % len(shapes)]))
                cids.append(cid)
                cluster.append(label)
        # The third picture of a cluster is in no pair, as many of the real ones.
        content[part] = {"cids": cids, "cluster": cluster, "qidxs": [*starts, *(s + 1 for s in starts)]}
        content[part]["pidxs"] = [*(s + 1 for s in starts), *starts]
    _dump(root / "retrieval-SfM-120k.pkl", content)
    if whitening:
        part = content["train"]
        _dump(root / "retrieval-SfM-120k-whiten.pkl", {key: part[key] for key in ("cids", "qidxs", "pidxs")})
    return root


def make_landmark_test(root: Path, name: str, landmarks: int = 4, first: int = 0) -> Path:
    """ROOT/gnd_<name>.pkl and ROOT/jpg/: two queries a landmark, cut to boxes out of larger pictures; four database pictures.

    The landmarks are the signs from number `first` on: `make_sfm120k` trains on the first ones.
    Revisited names have easy, hard and junk (the last query has none but junk); the others ok and junk, queries in the database.
    """
    (root / "jpg").mkdir(parents=True)
    names, truth, queries = [], [], []
    revisited = name.startswith("r")
    for place, number in enumerate(signs(first + landmarks)[first:]):
        for drawing in range(4):
            names.append(f"some_place{place}_{drawing:06d}")
            landmark(number, drawing, SHAPES[(place + drawing) % 4]).save(root / "jpg" / f"{names[-1]}.jpg", quality=95)
        own = [4 * place + drawing for drawing in range(4)]
        for query in range(2):
            queries.append(f"some_place{place}_{query if not revisited else 90 + query:06d}")
            if revisited:
                landmark(number, query, (150, 100)).save(root / "jpg" / f"{queries[-1]}.jpg", quality=95)
            lists = {"easy": own[:2], "hard": [own[2]], "junk": [own[3]]} if revisited else {"ok": own[:3], "junk": [own[3]]}
            box = [54.6, 19.7, 96.2, 60.4] if revisited else [10.6, 4.7, 45.2, 38.4]
            truth.append({"bbx": box} | lists)
    if revisited:
        truth[-1] |= {"easy": [], "hard": [], "junk": [0, 1]}
    _dump(root / f"gnd_{name}.pkl", {"imlist": names, "qimlist": queries, "gnd": truth})
    return root


def _save_sfm(root: Path, cid: str, picture: Image.Image) -> None:
    folder = root / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4]
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / cid, format="JPEG", quality=95)


def _dump(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol=2))
