"""`dmkd import-teacher`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmkd.commands import Add

FORMATS = ("torchvision", "timm", "gem", "caffe", "state_dict")
FORMAT_HELP = (
    "torchvision, timm: a state_dict of theirs or a published network by its name; gem: the landmark networks (Radenovic et al.) "
    "and RAML's teachers; caffe: blue first, pixels 0..255 minus a mean; state_dict: any, all said by hand"
)


def add(command: Add) -> None:
    """The parser."""
    parser = command("import-teacher", import_teacher, "take a published teacher in, safely, with a parity check on a picture")
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=FORMAT_HELP)
    parser.add_argument("file", metavar="FILE", help="a .safetensors, .pth or .pt file, or the name of a published network")
    parser.add_argument("--to", required=True, metavar="DIR", help="the checkpoint folder, then usable as teacher.checkpoint")
    parser.add_argument("--picture", default=None, metavar="FILE", help="for the parity check; default: a drawn scene")
    parser.add_argument("--backbone", default="", metavar="NAME", help="whose weights the file holds, as in student.backbone")
    parser.add_argument("--pooling", default="", help="average (the default), max, average+max, gem")
    parser.add_argument("--embedding-layer", default="", metavar="NAME", help="linear layer in the file that gives the embedding")
    parser.add_argument("--dim", type=int, default=0, metavar="D", help="refuse a file that gives another embedding dimension")
    parser.add_argument("--prefix", default="", help='what stands before the backbone\'s names in the file ("encoder.")')
    parser.add_argument("--mean", type=float, nargs=3, default=(), help="in [0, 1]; for caffe 0..255, blue first")
    parser.add_argument("--std", type=float, nargs=3, default=(), help="in the units of --mean")
    parser.add_argument("--bgr", action="store_true", help="the network wants blue first; --mean and --std are in that order")
    parser.add_argument("--resolution", type=int, default=0, metavar="N", help="side of the square crop; default: as published")
    parser.add_argument("--crop-ratio", type=float, default=0.0, help="crop / short side (default: as published, else 0.875)")
    parser.add_argument("--interpolation", default="", choices=("", "bilinear", "bicubic", "lanczos"))
    parser.add_argument(
        "--whitening", default="", metavar="NAME", help="a whitening of a gem file's meta.Lw, as the linear layer"
    )


def import_teacher(options: argparse.Namespace) -> None:
    """Take a teacher in and say how it compares."""
    from dmkd.import_teacher import import_teacher as take
    from dmkd.models.import_network import Said

    said = Said(
        embedding=options.embedding_layer,
        mean=tuple(options.mean),
        std=tuple(options.std),
        **{name: getattr(options, name) for name in ("backbone", "pooling", "dim", "prefix", "bgr", "resolution")},
        **{name: getattr(options, name) for name in ("crop_ratio", "interpolation", "whitening")},
    )
    done = take(options.format, options.file, Path(options.to), said, Path(options.picture) if options.picture else None)
    print(done.line)
    if done.note:
        print(f"note: {done.note}")
    print(f"{done.folder}: {done.backbone}, {done.dim} dimensions, embedding space {done.embedding_space}")
    print(f"use it: --set teacher.checkpoint={done.folder}")
