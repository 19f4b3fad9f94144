"""`dmkd networks`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from dmkd.commands import Add

if TYPE_CHECKING:
    from dmkd.models.describe import Described


def add(command: Add) -> None:
    """The parser."""
    text = "networks: parameters, GFLOPs, channels, stages, where weights come from, and which settings do not apply"
    networks_ = command("networks", networks, text)
    networks_.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="any of torchvision (resnet34) or timm (timm/convnext_atto); default: the named ones",
    )
    networks_.add_argument("--resolution", type=int, default=0, metavar="PX", help="side of the images (default: the usual one)")
    networks_.add_argument("--json", action="store_true")


def networks(options: argparse.Namespace) -> None:
    """Print what networks are and cost."""
    from dmkd.models.describe import NAMED, describe

    described = (describe(name, options.resolution) for name in options.names or NAMED)
    if options.json:
        print(json.dumps([asdict(network) for network in described], indent=2))
        return
    for network in described:
        print("\n".join(_lines(network, whole=bool(options.names))), flush=True)


def _lines(network: Described, whole: bool) -> Iterator[str]:
    cost = f"{network.parameters / 1e6:.2f} M parameters, {network.gflops:.3f} GFLOPs at {network.resolution} px"
    yield f"{network.name}  ({network.family})  {cost}, {network.channels} channels, stride {network.stride}"
    if whole:
        yield f"    stages: {', '.join(f'{stage} ({channels})' for stage, channels in network.stages.items()) or 'none'}"
        yield f"    imagenet weights: {network.weights}"
    yield from (f"    note: {note}" for note in network.notes)
