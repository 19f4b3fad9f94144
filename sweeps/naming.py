"""What the tracker shows of a trial: its name, its tags, and the environment it ran in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.config import Config, config_hash, to_yaml
from dmkd.space import flatten
from sweeps.shared import Shared

if TYPE_CHECKING:
    from dmkd.data.splits import Parts
    from tracking.runs import Run


def open_run(shared: Shared, settings: Config, job: Mapping[str, Any], allowed: Callable[[], bool]) -> Run:
    """The tracker's run of a trial, made or continued; written for as long as `allowed` says so."""
    from tracking.runs import start_run

    return start_run(
        shared.tracking_uri,
        shared.experiment,
        run_name(settings, job["tags"] | dict(shared.tags)),
        key=f"{shared.sweep}/{job['key']}",
        parent_id=shared.parent,
        parent_key=shared.parent_key,
        params=flatten(settings),
        tags=run_tags(settings) | dict(shared.tags) | dict(job["tags"]),
        spool=shared.spool,
        allowed=allowed,
    )


def run_name(config: Config, tags: Mapping[str, str]) -> str:
    """What the tracker's lists show: "yu/absolute: trial 3", "yu/absolute: trial 3, final, seed 1", "teacher".

    The method stands first, since lists cut a name after some 15 letters; the row of a published table has a name of its own.
    """
    label = tags.get("dmkd.label", "")
    parts = [f"{config.method.label}: {label}" if label.startswith("trial ") else label or config.method.label]
    parts += [tags["dmkd.piece"]] if "dmkd.piece" in tags else []
    parts += ["final", f"seed {config.seed}"] if tags.get("dmkd.stage") == "final" else []
    return ", ".join(parts)


def run_tags(config: Config) -> dict[str, str]:
    """The tags that a configuration gives to its run."""
    return {
        "dmkd.config_hash": config_hash(config),
        "dmkd.row": config_hash(config),
        "dmkd.seed": str(config.seed),
        "dmkd.fold": str(config.data.fold),
        "dmkd.method": config.method.label,
    }


def source_tags(script: Path, commit: str) -> dict[str, str]:
    """What the tracker shows as a run's source: the script ("sweeps/quickstart.py", no path of the machine) and its commit."""
    known = {"mlflow.source.git.commit": commit, "dmkd.commit": commit} if commit else {}
    return known | {"mlflow.source.name": "/".join(script.parts[-2:]), "mlflow.source.type": "LOCAL"}


def log_datasets(run: Run, settings: Config, parts: Parts) -> None:
    """The parts of the data set that the run sees, by the fingerprint of the split; the test part where it is looked at."""
    shown = {"training": parts.train, "validation": parts.val, "test": parts.test if settings.evaluation.test else None}
    for context, part in shown.items():
        if part is not None and len(part):
            counts = {"pictures": len(part), "classes": len(set(part.labels.tolist())), "pictures_fingerprint": part.fingerprint}
            name = f"{part.name} ({context})"
            run.log_dataset(name, parts.fingerprint, context, source=str(settings.data.root or part.root), profile=counts)


def log_outcome(run: Run, settings: Config, folders: Sequence[Path]) -> None:
    """What a run leaves behind: its configuration, the environment, and those of the folders that there are."""
    run.log_text(to_yaml(settings), "config.yaml")
    run.log_text(environment(), "environment.txt")
    for folder in folders:
        if folder.is_dir():
            run.log_artifact(folder)


@lru_cache(maxsize=1)
def environment() -> str:
    """Python and every installed package with its version."""
    from importlib.metadata import distributions

    names = sorted({f"{found.metadata['Name']}=={found.version}" for found in distributions()}, key=str.lower)
    return "\n".join([f"# python {sys.version.split()[0]}", *names]) + "\n"
