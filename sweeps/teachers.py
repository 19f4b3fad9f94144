"""Teachers as named stages: found in the registry under the key of their row, checked for what they were trained on, and kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dmkd.checkpoint import read_info
from dmkd.config import Config
from dmkd.data.datasets import load_dataset
from dmkd.data.lineage import known_classes
from dmkd.data.splits import Parts, split
from dmkd.errors import CheckpointError, SweepError
from sweeps.options import Options
from sweeps.places import Places
from tracking.errors import TrackingError
from tracking.places import sqlite_path
from tracking.registry import promote, pull
from tracking.runs import find_run


def model_name(key: str) -> str:
    """The registered model of a published row: "teacher yu2019.T1.cub200.teacher.triplet.512"."""
    return "teacher " + re.sub(r"[^\w.-]", ".", key.replace("/", "."))[:90]


def model_alias(config_hash: str, split: str) -> str:
    """Which version: configuration and split have to be the same, so that a miniature's teacher is no one else's."""
    return f"{config_hash}-{split[:8]}"


def find_teacher(name: str, alias: str, to: Path, uri: str) -> str:
    """The checkpoint folder of a registered teacher, pulled into `to` and verified; empty where there is none."""
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        return ""
    try:
        return str(pull(f"models:/{name}@{alias}", to, uri))
    except TrackingError:
        return ""


def keep_teacher(name: str, alias: str, experiment: str, key: str, uri: str) -> str:
    """Register the run with this key as the named teacher; a note where the tracker would not have it (the files stay)."""
    try:
        found = find_run(uri, experiment, key)
        if found is None:
            return f"{name}: its run has not reached the tracker yet"
        promote(found[0], name, alias, uri)
    except TrackingError as error:
        return f"{name}: not registered: {error}"
    return ""


def with_given(options: Options, places: Places) -> Options:
    """The options with a teacher that is given by REF (runs:/ID, models:/NAME@ALIAS) as a folder: pulled, verified, kept.

    Raises `TrackingError` where the REF names nothing.
    """
    changes = []
    for assignment in options.set:
        key, _, ref = assignment.partition("=")
        if key == "teacher.checkpoint" and re.match(r"(runs|models):/", ref):
            ref = str(pull(ref, places.folder / "given" / re.sub(r"\W+", "-", ref), places.tracking_uri))
        elif key == "teacher.checkpoint" and ref:
            ref = str(Path(ref).expanduser().absolute())
        changes.append(f"{key}={ref}" if key == "teacher.checkpoint" else assignment)
    return replace(options, set=tuple(changes))


def check_training(folder: str, parts: Parts, command: str) -> str:
    """Check what a teacher was trained on against the classes that its students are judged by.

    Raises `SweepError` where it has seen test classes, or validation classes in a search. Returns a note where nothing is known
    of its training, or where it was trained on other pictures; empty where all is well. `command` trains one that is fit.
    """
    info = read_info(folder)
    trained = info.get("extra", {}).get("trained_on")
    if not trained:
        return f"teacher {folder}: its training classes are not recorded; if test classes are among them, no test score counts"
    held_out: list[tuple[str, Sequence[str]]] = [("test", parts.test.classes)] if parts.test is not None else []
    held_out += [("validation", parts.val.classes)] if parts.val is not None else []
    try:
        seen = [(part, known_classes(trained, classes), len(classes)) for part, classes in held_out]
        own = known_classes(trained, parts.train.classes)
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder}/model.json: what it was trained on is not readable; copy the folder again") from None
    for part, names, count in seen:
        if names:
            raise SweepError(
                f"teacher {folder} was trained on {len(names)} of the {count} {part} classes (first {names[0]!r}): its students' "
                f"{part} scores would mean nothing; take another, or train one: {command or '--with-teacher'}"
            )
    return "" if own else f"teacher {folder} was trained on other classes than these (data set {trained['dataset']})"


def check_folds(base: Config, folders: Sequence[str], command: str = "") -> None:
    """Check the teacher of every fold, in their order, against the classes that this fold is judged by; see `check_training`."""
    pictures = load_dataset(base.data)
    for fold, folder in enumerate(folders):
        check_training(folder, split(pictures, replace(base.data, fold=fold)), command)
