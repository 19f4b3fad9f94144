"""Search a folder of pictures; needs what embed.py needs, and faiss.

python search.py index FOLDER --to INDEX           # by gallery/ (the teacher) where there is one, else by this network
python search.py find PICTURE... --index INDEX [--top 5] [--out FOUND]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from embed import Embedder, rgb
from PIL import Image

HERE = Path(__file__).parent
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TILE = 160
"""Pixels of a picture on a sheet of answers."""


def gallery_folder() -> Path:
    """The network that embeds the gallery: the teacher's, where the student was made to query its teacher's gallery."""
    return HERE / "gallery" if (HERE / "gallery" / "model.json").exists() else HERE


def readable(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Every picture below `folder` with its path in it; what cannot be read is left out, and named."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            yield path.relative_to(folder).as_posix(), rgb(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"left out: {path} ({error})", file=sys.stderr)


def index(folder: Path, to: Path) -> None:
    """Embed every picture below `folder`; keep a faiss index of them, and their paths, in `to`."""
    embedder, pictures, rows, paths = Embedder(gallery_folder()), readable(folder), [], []
    while some := list(islice(pictures, 32)):
        rows.append(embedder([image for _, image in some]))
        paths += [path for path, _ in some]
    if not rows:
        sys.exit(f"{folder}: no picture in it that could be read; wanted {' '.join(SUFFIXES)}")
    found = faiss.IndexFlatIP(rows[0].shape[1])
    found.add(np.concatenate(rows))
    to.mkdir(parents=True, exist_ok=True)
    faiss.write_index(found, str(to / "gallery.faiss"))
    told = {"folder": str(folder.resolve()), "paths": paths, "embedding_space": embedder.info["embedding_space"]}
    (to / "gallery.json").write_text(json.dumps(told), encoding="utf-8")
    print(f"{to}: {len(paths)} pictures, embedded by {embedder.folder}")


def find(pictures: list[Path], place: Path, top: int, out: Path | None) -> None:
    """Print the `top` pictures of the gallery for each query, and draw them beside it."""
    told = json.loads((place / "gallery.json").read_text(encoding="utf-8"))
    wanted = json.loads((gallery_folder() / "model.json").read_text(encoding="utf-8"))["embedding_space"]
    if told["embedding_space"] != wanted:
        sys.exit(f"{place} is of the embedding space {told['embedding_space']}, this folder searches {wanted}: index it again")
    scores, rows = faiss.read_index(str(place / "gallery.faiss")).search(Embedder(HERE)(pictures), min(top, len(told["paths"])))
    for number, (picture, score, row) in enumerate(zip(pictures, scores, rows, strict=True), 1):
        paths = [told["paths"][position] for position in row]
        found = [[path, round(float(value), 4)] for path, value in zip(paths, score, strict=True)]
        print(json.dumps({"query": str(picture), "found": found}))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            sheet([picture, *(Path(told["folder"]) / path for path in paths)]).save(out / f"{number}-{picture.stem}.png")


def sheet(paths: list[Path]) -> Image.Image:
    """Pictures in a row, the first one (the query) apart from the others."""
    drawn = Image.new("RGB", (TILE * len(paths) + 12, TILE), "white")
    for number, path in enumerate(paths):
        tile = rgb(path)
        tile.thumbnail((TILE - 8, TILE - 8))
        drawn.paste(tile, (number * TILE + 4 + 12 * bool(number), 4))
    return drawn


def main(arguments: Any = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    index_ = commands.add_parser("index", help="embed a folder of pictures")
    index_.add_argument("folder", type=Path)
    index_.add_argument("--to", type=Path, required=True, metavar="INDEX")
    find_ = commands.add_parser("find", help="search with pictures")
    find_.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    find_.add_argument("--index", type=Path, required=True)
    find_.add_argument("--top", type=int, default=5)
    find_.add_argument("--out", type=Path, metavar="FOUND", help="a sheet of pictures for each query goes here")
    options = parser.parse_args(arguments)
    try:
        if options.command == "index":
            index(options.folder, options.to)
        else:
            find(options.pictures, options.index, options.top, options.out)
    except OSError as error:
        sys.exit(f"search.py: {error}")


if __name__ == "__main__":
    main()
