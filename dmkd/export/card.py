"""README.md of an exported folder: what the network is, how pictures must come, what was measured, where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dmkd.models.embedder import EmbeddingNet
from dmkd.models.saved import CARD

APART = ("metrics", "runs", "loss")
"""What of the notes has a section of its own."""
WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "trained_on": lambda told: f"{told['dataset']}, {told['training_classes']['count']} classes (split {told['fingerprint']})",
    "parity": lambda told: (
        f"within {told['largest_difference']:.1e} of the network on {told['images']} {told['pictures']} pictures"
    ),
    "calibration": lambda told: f"{told['pictures']} pictures ({told['of']})",
    "provenance": lambda told: ", ".join(f"{key} {value}" for key, value in told.items()),
}
"""What of the notes is a mapping, in words; model.json has all of it."""


def model_card(net: EmbeddingNet, resolution: int, notes: Mapping[str, Any]) -> str:
    """The card; `notes` is "extra" of model.json."""
    network, metrics = net.network, dict(notes.get("metrics", {}))
    architecture = {key: getattr(network, key) for key in ("backbone", "projection", "pooling")}
    architecture |= {"dim": net.head.dim, "started from": network.weights}
    lines = [
        f"# {network.backbone}, {net.head.dim}-d embeddings",
        "",
        "An image-embedding network for retrieval, trained by dmkd.",
        "Its embeddings have unit length: compare them by their dot product.",
        *_gallery(notes),
        "",
        *_use(notes),
        "## Input",
        f"float32 RGB in [0, 1], [B, 3, {resolution}, {resolution}]; the network normalises it itself.",
        f"{CARD} under `preprocessing` says every step from an 8-bit picture on (the last one, mean and std, is inside).",
        "",
        "## Architecture",
        *_table(architecture),
        "",
        "## Metrics",
        *(_table(metrics) if metrics else ["None were recorded with this export."]),
        "",
        *_loss(notes),
        "## Provenance",
        *_table({key: _worded(key, value) for key, value in notes.items() if key not in APART}),
        "",
    ]
    return "\n".join(lines)


def _gallery(notes: Mapping[str, Any]) -> list[str]:
    if notes.get("gallery") != "teacher":
        return []
    return [
        "",
        "**Asymmetric**: this network embeds queries. The gallery is embedded by its teacher (`gallery/`, where it was pulled "
        "with one); with a gallery of its own the scores are the symmetric ones below.",
    ]


def _use(notes: Mapping[str, Any]) -> list[str]:
    runs = notes.get("runs")
    if not runs:
        return []
    size = "of any size"
    if runs["size"] != "any":
        size = f"of {runs['size']} x {runs['size']} px alone ({runs.get('size_because', 'as it was exported')})"
    needs = "onnxruntime" if str(runs["program"]).endswith(".onnx") else "torch"
    return [
        "## Use",
        f"`{runs['program']}` takes any number of images, {size}. Needed: Python, {needs}, numpy, pillow; to search also faiss.",
        "",
        "    python embed.py PICTURE... --out embeddings.npy",
        "    python search.py index FOLDER --to INDEX",
        "    python search.py find PICTURE... --index INDEX --out found",
        "",
    ]


def _loss(notes: Mapping[str, Any]) -> list[str]:
    loss = notes.get("loss")
    if not loss:
        return []
    return [f"## What {notes['precision']} costs", *_table(loss), ""]


def _worded(key: str, value: Any) -> Any:
    try:
        return WORDS[key](value) if key in WORDS else value
    except (KeyError, TypeError, ValueError):  # notes of another program, or of an older one
        return value


def _table(rows: Mapping[str, Any]) -> list[str]:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|") for key, value in rows.items()}
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())]
