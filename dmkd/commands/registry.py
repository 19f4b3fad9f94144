"""`dmkd promote`, `rollback`, `journal`: which version of a model is the one in use, and why."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.commands import Add
from dmkd.commands.places import tracked
from dmkd.errors import ConfigError

if TYPE_CHECKING:
    from dmkd.commands.gate import Verdict
    from dmkd.compatibility import Pair
    from tracking.registry import Promotion


def add(command: Add) -> None:
    """The parsers."""
    promote_ = command("promote", promote, "make a row's checkpoint the version in use, if it is no worse than the present one")
    promote_.add_argument("row", metavar="ROW")
    promote_.add_argument("--as", dest="name", required=True, metavar="NAME")
    promote_.add_argument("--alias", default="champion")
    promote_.add_argument(
        "--gallery", default="", metavar="REF", help="the network that embeds the gallery of an asymmetric student"
    )
    promote_.add_argument(
        "--reindex",
        action="store_true",
        help="the gallery will be embedded anew by this version: compare each in its own gallery",
    )
    promote_.add_argument("--metric", default="recall_at_1", metavar="M")
    promote_.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X", help="how much of the metric it may lose (0.01: a point)"
    )
    promote_.add_argument("--split", choices=("val", "test"), default="test", help="test is counted as a test look of each run")
    promote_.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of data.* or evaluation.*"
    )
    promote_.add_argument("--force", default="", metavar="WHY", help="promote against the gate; who and why go into the journal")
    promote_.add_argument("--no-serve", action="store_true", help="register no pyfunc model beside the checkpoint")
    tracked(promote_)
    rollback_ = command("rollback", rollback, "move a model's alias back to the version before")
    rollback_.add_argument("name", metavar="NAME")
    rollback_.add_argument("--alias", default="champion")
    tracked(rollback_)
    journal_ = command("journal", journal, "every promotion and rollback of a model: who, when, from, to, and what the gate said")
    journal_.add_argument("name", metavar="NAME")
    journal_.add_argument("--alias", default="champion")
    journal_.add_argument("--json", action="store_true")
    tracked(journal_)


@dataclass(frozen=True)
class Standing:
    """A candidate, and what is deployed, as folders on this disk; and the gallery that will be there after the promotion."""

    new: Pair
    old: Pair | None
    champion_run: str
    gallery: dict[str, str]
    gallery_folder: Path


def promote(options: argparse.Namespace) -> None:
    """Judge a row's checkpoint, register it, and move the alias."""
    from dmkd.commands.gate import GateClosed
    from tracking.journal import check_names
    from tracking.places import absolute_uri
    from tracking.registry import promote as promote_run
    from tracking.registry import run_of

    check_names(options.name, options.alias)
    uri = absolute_uri(options.tracking_uri)
    run_id = run_of(options.row, uri)
    with tempfile.TemporaryDirectory(prefix="dmkd-") as place:
        standing = _standing(options, uri, run_id, Path(place))
        verdict = _judged(options, standing)
        if options.split == "test":
            _count_looks({run_id, standing.champion_run} - {""}, uri)
        if not verdict.passed and not options.force:
            raise GateClosed(_closed(options, verdict, standing))
        promotion = _promotion(options, standing, verdict, Path(place) / "served")
        version = promote_run(run_id, options.name, options.alias, uri, promotion)
    print(f"models:/{options.name}@{options.alias} is now version {version}: {verdict.text}")
    if not verdict.passed:
        print(f"forced against the gate: {options.force}")


def _judged(options: argparse.Namespace, standing: Standing) -> Verdict:
    from dmkd import config as configs
    from dmkd.commands.gate import judge
    from dmkd.compatibility import Compatibility

    changes = configs.parse_assignments(options.set) | {"evaluation.nmi": False}
    searches = Compatibility(standing.new.queries, changes, options.split)
    asked = {"metric": options.metric, "tolerance": options.tolerance, "reindex": options.reindex}
    return judge(searches, standing.new, standing.old, **asked)


def _promotion(options: argparse.Namespace, standing: Standing, verdict: Verdict, to: Path) -> Promotion:
    """What goes into the journal and onto the version; the pyfunc model is written to `to`."""
    from dmkd.checkpoint import read_info
    from dmkd.compatibility import stamps
    from tracking.registry import CHECKPOINT, Promotion

    info, gallery = read_info(standing.new.queries), standing.gallery
    served, stamped = (None, {}) if options.no_serve else _served(options, standing.new.queries, to)
    logged = info["extra"].get("metrics", {})
    return Promotion(
        gate=verdict.entry(options.metric, options.split),
        metrics={key: value for key, value in logged.items() if key.endswith(("/recall_at_1", "/map"))},
        forced="" if verdict.passed else options.force,
        stamps=stamps(info) | {f"dmkd.gallery_{key}": gallery[key] for key in ("space", "place")} | stamped,
        gallery=gallery,
        served=served,
        gallery_checkpoint=None if gallery["place"] == CHECKPOINT else standing.gallery_folder,
    )


def _standing(options: argparse.Namespace, uri: str, run_id: str, place: Path) -> Standing:
    """Fetch the candidate, the champion, and the networks that embed their galleries."""
    from dmkd.checkpoint import read_info
    from dmkd.compatibility import Pair
    from tracking.registry import CHECKPOINT, GALLERY, deployed, pull

    fetched: dict[tuple[str, str], Path] = {}

    def fetch(run: str, where: str) -> Path:
        if (run, where) not in fetched:
            fetched[run, where] = pull(f"runs:/{run}", place / f"{len(fetched)}", uri, place=where)
        return fetched[run, where]

    candidate = fetch(run_id, CHECKPOINT)
    before = deployed(options.name, options.alias, uri)
    old, there = None, {"run_id": run_id, "place": CHECKPOINT}
    if before is not None:
        # A version of before there were gates: its own network embeds its gallery.
        there = dict(before.get("gallery") or {"run_id": before["run_id"], "place": CHECKPOINT})
        old = Pair(fetch(before["run_id"], CHECKPOINT), fetch(there["run_id"], there["place"]))
    own = _own_gallery(options, uri, candidate, old, place / "gallery")
    new = Pair(candidate, own)
    wall = own if old is None or options.reindex else old.gallery
    space = str(read_info(wall)["embedding_space"])
    itself = space == read_info(candidate)["embedding_space"]
    kept = {"run_id": run_id, "place": CHECKPOINT if itself else f"{GALLERY}/{space}", "space": space}
    return Standing(new, old, str(before["run_id"]) if before else "", kept, wall)


def _own_gallery(options: argparse.Namespace, uri: str, candidate: Path, old: Pair | None, to: Path) -> Path:
    """The network whose gallery the candidate was made to search: its own, or its teacher's. Raises `ConfigError` if unknown."""
    from dmkd.checkpoint import read_info
    from dmkd.run import evaluation_config
    from tracking.registry import pull

    if options.gallery:
        return pull(options.gallery, to, uri)
    extra = read_info(candidate)["extra"]
    if extra.get("gallery", "student") != "teacher":
        return candidate
    if old is not None and not options.reindex:
        return old.gallery
    teacher = Path(evaluation_config(candidate).teacher.checkpoint or "missing")
    if not (teacher / "model.json").is_file():
        raise ConfigError(
            f"this student was made to search its teacher's gallery, and {teacher} is not here: give the teacher by --gallery REF"
        )
    return pull(str(teacher), to, uri)


def _closed(options: argparse.Namespace, verdict: Verdict, standing: Standing) -> str:
    from dmkd.checkpoint import read_info

    made = read_info(standing.new.queries)["embedding_space"]
    ways = "--force WHY promotes it all the same"
    if standing.old is None:
        ways = f"give the network that embeds its gallery by --gallery REF; {ways}"
    elif _teacher_space(standing.new.queries) == standing.gallery["space"]:
        ways = f"it was trained towards this very gallery: another row or a longer training may do better; {ways}"
    elif standing.gallery["space"] != made and not options.reindex:
        ways = (
            f"its embedding space is {made}, the gallery's {standing.gallery['space']}: train it towards that one (its network "
            f"as the teacher), or say --reindex if the gallery will be embedded anew; {ways}"
        )
    return f"not promoted: {verdict.text}. {ways[0].upper()}{ways[1:]}"


def _teacher_space(candidate: Path) -> str:
    """The embedding space that an asymmetric student was trained towards; empty for another, or where its teacher is not here."""
    from dmkd.checkpoint import read_info
    from dmkd.run import evaluation_config

    if read_info(candidate)["extra"].get("gallery", "student") != "teacher":
        return ""
    teacher = Path(evaluation_config(candidate).teacher.checkpoint or "missing")
    return str(read_info(teacher)["embedding_space"]) if (teacher / "model.json").is_file() else ""


def _count_looks(runs: set[str], uri: str) -> None:
    from tracking.looks import count_look

    for run in sorted(runs):
        number = count_look(f"runs:/{run}", uri)
        print(f"note: test look {number} of run {run[:8]}", file=sys.stderr)


def _served(options: argparse.Namespace, candidate: Path, to: Path) -> tuple[Path, dict[str, str]]:
    """The pyfunc model of the candidate, and the stamp of the code that it runs."""
    from dmkd import config as configs
    from dmkd.deployment import TEMPLATES, Wanted, deploy
    from tracking import served

    deployable = to.with_name("deployable")
    shutil.copytree(candidate, deployable, ignore=shutil.ignore_patterns("pulled.json"))
    deploy(deployable, Wanted(changes=configs.parse_assignments(options.set), configured=False))
    made = served.save_served(deployable, to, helpers=[TEMPLATES / "embed.py"])
    return to, {served.CODE_HASH: made}


def rollback(options: argparse.Namespace) -> None:
    """Move an alias one step back."""
    from tracking.registry import deployed
    from tracking.registry import rollback as roll

    before = deployed(options.name, options.alias, options.tracking_uri)
    version = roll(options.name, alias=options.alias, uri=options.tracking_uri)
    after = deployed(options.name, options.alias, options.tracking_uri)
    print(f"models:/{options.name}@{options.alias} is again version {version}")
    spaces = [(entry or {}).get("gallery", {}).get("space") for entry in (before, after)]
    if spaces[0] != spaces[1]:
        print(
            f"note: its gallery is of the embedding space {spaces[1]}, not {spaces[0]}: put that gallery back too",
            file=sys.stderr,
        )


def journal(options: argparse.Namespace) -> None:
    """Print the journal of an alias."""
    from tracking.registry import as_json, describe
    from tracking.registry import journal as entries

    found = entries(options.name, options.alias, options.tracking_uri)
    print(as_json(found) if options.json else "\n".join(describe(entry) for entry in found))
