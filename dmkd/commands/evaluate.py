"""`dmkd evaluate`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmkd.commands import Add
from dmkd.commands.places import folder_of, tracked

_CELL = re.compile(r"(?P<role>\w+?)_q(?P<query>\d+)_g(?P<gallery>\d+)/(?P<metric>.+)")

_VERSIONS = re.compile(r"(?P<split>\w+)/(?P<queries>old|new)_queries_(?P<gallery>old|new)_gallery/(?P<metric>.+)")


def add(command: Add) -> None:
    """The parser."""
    evaluate_ = command("evaluate", evaluate, "measure a checkpoint: symmetric, asymmetric, at every pair of resolutions")
    evaluate_.add_argument(
        "--checkpoint", required=True, metavar="REF", help="a folder, runs:/ID, models:/NAME@ALIAS, a leaderboard row"
    )
    evaluate_.add_argument(
        "--gallery",
        default="",
        metavar="REF",
        help="the network that embeds the gallery; default: the checkpoint's own. Of a version, models:/NAME@champion: old "
        "and new queries in the old and the new gallery",
    )
    evaluate_.add_argument("--dataset", default="", metavar="NAME", help="default: the one in the checkpoint's config.yaml")
    evaluate_.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of data.* or evaluation.*"
    )
    evaluate_.add_argument("--split", choices=("train", "val", "test"), default="test", help="test is counted as a test look")
    evaluate_.add_argument("--query-resolution", type=int, nargs="+", default=[], metavar="N")
    evaluate_.add_argument(
        "--gallery-resolution",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="the whole matrix: every query resolution against these, in the checkpoint's own gallery and in that of --gallery",
    )
    evaluate_.add_argument("--json", action="store_true")
    tracked(evaluate_)


def evaluate(options: argparse.Namespace) -> None:
    """Measure a checkpoint again."""
    from dmkd import config as configs
    from dmkd.run import evaluation_config

    changes = configs.parse_assignments(options.set)
    if options.dataset:
        changes = {"data.name": options.dataset, "data.root": ""} | changes
    folder = folder_of(options.checkpoint, options.tracking_uri)
    if options.gallery.startswith("models:/") and not options.query_resolution + options.gallery_resolution:
        scores = _against_version(options, folder, changes)
    else:
        scores = _alone(options, folder, changes)
    if not options.gallery and _wants_teacher(folder):
        _note("only symmetric numbers: this student was made to query its teacher's gallery; give that one by --gallery REF")
    if options.split == "test":
        _note(_count_look(options, folder, evaluation_config(folder, changes).data.name))
    _print_scores(scores, options.json)


def _alone(options: argparse.Namespace, folder: Path, changes: Mapping[str, Any]) -> dict[str, float]:
    from dmkd.run import evaluate_checkpoint

    return evaluate_checkpoint(
        folder,
        gallery=folder_of(options.gallery, options.tracking_uri) if options.gallery else None,
        changes=changes,
        split=options.split,
        resolutions=options.query_resolution,
        gallery_resolutions=options.gallery_resolution,
    )


def _against_version(options: argparse.Namespace, folder: Path, changes: Mapping[str, Any]) -> dict[str, float]:
    """A checkpoint against a version of the registry: each of the two as queries, in the gallery of each."""
    from dmkd.commands.pull import origin_of
    from dmkd.compatibility import Compatibility, Pair

    old = folder_of(options.gallery, options.tracking_uri)
    place = origin_of(options.gallery, options.tracking_uri).gallery_place
    wall = folder_of(options.gallery, options.tracking_uri, place) if place else old
    scores = Compatibility(folder, changes, options.split).scores(Pair(old, wall), Pair(folder, folder))
    if f"{options.split}_asymmetric/recall_at_1" not in scores:
        _note("the two do not share a dimension: neither can search the other's gallery")
    return scores


def _wants_teacher(folder: Path) -> bool:
    from dmkd.checkpoint import read_info

    return bool(read_info(folder)["extra"].get("gallery") == "teacher")


def _count_look(options: argparse.Namespace, folder: Path, dataset: str) -> str:
    """Count a test look on the run that the checkpoint is taken from, or in its folder; what to say of it."""
    from dmkd.evaluation.looks import count_look

    number, reason = None, f"{folder} cannot be written"
    if Path(options.checkpoint).is_dir():
        number = count_look(folder, dataset)
    else:
        from tracking.errors import TrackingError
        from tracking.looks import count_look as count_on_run

        try:
            number = count_on_run(options.checkpoint, options.tracking_uri)
        except TrackingError as error:
            reason = str(error)
    if number is None:
        return f"this test look could not be counted: {reason}"
    return f"test look {number} of this checkpoint; to choose between checkpoints, use --split val"


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _print_scores(scores: Mapping[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps(dict(scores), indent=2))
        return
    versions = {key: match for key in scores if (match := _VERSIONS.fullmatch(key))}
    for metric in dict.fromkeys(match["metric"] for match in versions.values()):
        _print_versions({key: match for key, match in versions.items() if match["metric"] == metric}, scores)
    scores = {key: value for key, value in scores.items() if key not in versions}
    found = {key: match for key in scores if (match := _CELL.fullmatch(key))}
    for name, value in scores.items():
        if name not in found or not _is_matrix(found):
            print(f"{name:48s} {value:.6f}")
    if _is_matrix(found):
        for table in dict.fromkeys((match["role"], match["metric"]) for match in found.values()):
            _print_table(
                *table, {key: match for key, match in found.items() if (match["role"], match["metric"]) == table}, scores
            )


def _print_versions(found: Mapping[str, re.Match[str]], scores: Mapping[str, float]) -> None:
    """Old and new queries downwards, old and new gallery across; a dash where the two do not fit."""
    values = {(match["queries"], match["gallery"]): scores[key] for key, match in found.items()}
    first = next(iter(found.values()))
    print(f"{first['split']}/{first['metric']:26s} {'old gallery':>12s} {'new gallery':>12s}")
    for queries in ("old", "new"):
        shown = [values.get((queries, gallery)) for gallery in ("old", "new")]
        print(f"  {queries + ' queries':29s} " + " ".join("           -" if one is None else f"{one:12.6f}" for one in shown))


def _is_matrix(found: Mapping[str, re.Match[str]]) -> bool:
    """Whether there are several gallery resolutions of one role: two dimensions, which a list shows badly."""
    sizes = {(match["role"], match["gallery"]) for match in found.values()}
    return len(sizes) > len({role for role, _ in sizes})


def _print_table(role: str, metric: str, found: Mapping[str, re.Match[str]], scores: Mapping[str, float]) -> None:
    """Queries downwards, galleries across; a dash where a metric has no meaning."""
    values = {(match["query"], match["gallery"]): scores[key] for key, match in found.items()}
    across, down = (list(dict.fromkeys(pair[side] for pair in values)) for side in (1, 0))
    print(f"{role}/{metric}")
    print("  " + " ".join([f"{'query':>7s}", *(f"{'g' + gallery:>9s}" for gallery in across)]))
    for query in down:
        shown = [values.get((query, gallery)) for gallery in across]
        print(
            "  " + " ".join([f"{'q' + query:>7s}", *(f"{'-' if value is None else format(value, '.6f'):>9s}" for value in shown)])
        )
    print()
