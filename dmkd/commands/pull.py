"""`dmkd pull`: a verified checkpoint with the program that runs it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.commands import Add
from dmkd.commands.places import tracked

if TYPE_CHECKING:
    from dmkd.deployment import Wanted


def add(command: Add) -> None:
    """The parser."""
    pull_ = command("pull", pull, "a checkpoint for deployment: verified, with a program that runs without dmkd")
    pull_.add_argument("ref", metavar="REF", help="a folder, runs:/ID, models:/NAME@ALIAS, or a leaderboard row")
    pull_.add_argument("--to", required=True, metavar="DIR")
    pull_.add_argument("--format", default="safetensors", metavar="safetensors|onnx|pt2")
    pull_.add_argument(
        "--precision", default="fp32", metavar="fp32|fp16|int8", help="smaller ones come with their measured loss of recall"
    )
    pull_.add_argument(
        "--pictures", default="", metavar="DIR", help="real pictures to compare on (default: the checkpoint's data set)"
    )
    pull_.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of data.* or evaluation.*")
    pull_.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="measures the loss; test is counted as a test look"
    )
    pull_.add_argument("--unmeasured", action="store_true", help="do not measure the loss of a smaller precision")
    pull_.add_argument(
        "--gallery", default="", metavar="REF", help="the network that embeds the gallery (default: the one promoted with it)"
    )
    pull_.add_argument("--no-program", action="store_true", help="the verified weights alone, to be loaded by dmkd")
    tracked(pull_)


def pull(options: argparse.Namespace) -> None:
    """Fetch, verify, make the program, compare, and put the folder in its place."""
    from dmkd import config as configs
    from dmkd.deployment import Wanted, deploy
    from dmkd.errors import ConfigError
    from dmkd.export import FORMATS
    from dmkd.export.precision import check_precision
    from dmkd.space import nearest
    from tracking.registry import pull as fetch

    if options.format not in FORMATS:
        raise ConfigError(f"--format {options.format!r}: {nearest(options.format, FORMATS)}")
    check_precision(options.precision)
    uri, origin = options.tracking_uri, origin_of(options.ref, options.tracking_uri)
    pictures = Path(options.pictures) if options.pictures else None
    changes = configs.parse_assignments(options.set)
    wanted = Wanted(options.format, options.precision, pictures, changes, options.split, not options.unmeasured)
    made: dict[str, Any] = {}

    def finish(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="dmkd-") as place:
            walls = [
                fetch(ref, Path(place) / "gallery", uri, place=where, finish=lambda wall: _deploy_gallery(wall, wanted))
                for ref, where in _gallery(options.gallery, origin)
            ]
            # Not before: the folder is written anew with its program.
            made.update(deploy(folder, replace(wanted, gallery=walls[0] if walls else None), origin.told))
            for wall in walls:
                shutil.move(wall, folder / "gallery")

    folder = fetch(options.ref, options.to, uri, finish=None if options.no_program else finish)
    if made.get("extra", {}).get("loss") and options.split == "test":
        _count_look(options, origin)
    print(report(folder, made))


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from."""

    told: dict[str, Any]
    """For model.json."""
    run: str = ""
    gallery_place: str = ""
    """Where its run keeps the network that embeds the gallery; empty: the checkpoint itself does, or nobody knows."""


def origin_of(ref: str, uri: str) -> Origin:
    """The run and the version that a REF names. Raises `TrackingError` where it names nothing."""
    if Path(ref).exists():
        return Origin({"ref": Path(ref).name})
    from tracking.places import absolute_uri
    from tracking.refs import run_of, version_of

    uri = absolute_uri(uri)
    if not ref.startswith("models:/"):
        run = run_of(ref, uri)
        return Origin({"run": run}, run)
    version = version_of(ref, uri)
    told = {"model": version.name, "version": int(version.version), "run": version.run_id}
    place = str(dict(version.tags).get("dmkd.gallery_place", "checkpoint"))
    return Origin(told, version.run_id, "" if place == "checkpoint" else place)


def _gallery(asked: str, origin: Origin) -> list[tuple[str, str]]:
    """REF and place of the network that embeds the gallery, where that is another."""
    if asked:
        return [(asked, "checkpoint")]
    return [(f"runs:/{origin.run}", origin.gallery_place)] if origin.gallery_place else []


def _deploy_gallery(folder: Path, wanted: Wanted) -> None:
    """The gallery's network in the same format; its precision stays whole: it is embedded once, and not on a small device."""
    from dmkd.deployment import deploy

    deploy(folder, replace(wanted, precision="fp32"))


def _count_look(options: argparse.Namespace, origin: Origin) -> None:
    from tracking.looks import count_look

    if origin.run:
        number = count_look(f"runs:/{origin.run}", options.tracking_uri)
        print(f"note: test look {number} of run {origin.run[:8]}", file=sys.stderr)


def report(folder: Path, made: dict[str, Any]) -> str:
    """What was pulled, and what to type next."""
    from dmkd.checkpoint import read_info
    from dmkd.models.saved import CARD

    lines = [f"{folder}: weights verified"]
    if made:
        extra = made["extra"]
        runs, parity = extra["runs"], extra["parity"]
        size = "any size" if runs["size"] == "any" else f"{runs['size']} x {runs['size']} px"
        compared = f"{parity['images']} {'real' if parity['pictures'] == 'real' else 'GENERATED'} pictures"
        lines.append(
            f"{runs['program']} ({extra['precision']}; any number of images of {size}): "
            f"within {parity['largest_difference']:.1e} of the network on {compared}"
        )
        if runs["size"] != "any":
            lines.append(f"of no other size: {runs['size_because']}; `dmkd evaluate` measures the network at others")
        if told := extra.get("calibration"):
            lines.append(f"int8 ranges are of {told['pictures']} pictures ({told['of']})")
        if (folder / "gallery" / CARD).is_file():
            wall = read_info(folder / "gallery")
            lines.append(f"gallery/: its teacher, which embeds the gallery ({wall['resolution']} x {wall['resolution']} px)")
        lines += [f"{key}: {value:.4f}" for key, value in extra.get("loss", {}).items() if isinstance(value, float)]
        lines.append(f"without dmkd: python {folder}/embed.py PICTURE...; python {folder}/search.py --help")
    return "\n".join([*lines, f"measure it again: dmkd evaluate --checkpoint {folder}"])
