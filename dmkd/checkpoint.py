"""Checkpoints: networks as folders (see `models.saved`), and the state of a run, from which it resumes bit for bit."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import shutil
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmkd.errors import CheckpointError
from dmkd.models.saved import load_model, read_info, save_model
from dmkd.models.storage import read_file, sha256, write_folder

__all__ = ["State", "load_model", "load_state", "read_info", "save_model", "save_state"]

FORMAT = "dmkd-state-1"
KEPT = 2
"""How many states of a run stay on the disk."""
_NAME = re.compile(r"state-(\d{8,})")


@dataclass(frozen=True)
class State:
    """Where a run stands after an epoch."""

    epoch: int
    """Epochs done."""
    iteration: int
    """Optimizer steps done."""
    payload: dict[str, Any] = field(default_factory=dict)
    """Nested dict, list, tuple of tensors, numbers, strings, None; keys are strings or whole numbers."""
    damage: str = ""
    """Of a loaded state: what was wrong with newer ones, which were passed over."""


def save_state(state: State, folder: Path | str) -> Path:
    """Write `state` beside the earlier ones in `folder` (the last two are kept), whole or not at all. Returns its own folder.

    Raises `CheckpointError` where the payload holds anything else than plain values and tensors, or the disk refuses.
    """
    folder = Path(folder)
    payload = _plain(state.payload, "payload")
    buffer = io.BytesIO()
    torch.save({"epoch": int(state.epoch), "iteration": int(state.iteration), "payload": payload}, buffer)
    content = buffer.getvalue()
    note = {"format": FORMAT, "sha256": sha256(content), "epoch": int(state.epoch), "iteration": int(state.iteration)}
    known = _states(folder)
    number = _number(known[-1]) + 1 if known else 1
    target = folder / f"state-{number:08d}"
    write_folder(target, {"state.pt": content, "state.json": json.dumps(note, indent=2).encode()})
    for old in [*_states(folder)[:-KEPT], *folder.glob(".state-*")]:
        with contextlib.suppress(OSError):
            shutil.rmtree(old)
    return target


def load_state(folder: Path | str) -> State:
    """The newest whole state in `folder`; a damaged newest one is passed over with a warning.

    No code of the file is run. Raises `CheckpointError` where there is none.
    """
    folder = Path(folder)
    damage: list[str] = []
    for candidate in reversed(_states(folder)):
        try:
            state = _read(candidate)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f"{'; '.join(damage)}: going on from {candidate.name} (epoch {state.epoch})", stacklevel=2)
        return replace(state, damage="; ".join(damage))
    found = "; ".join(damage) or "no state there"
    raise CheckpointError(f"{folder}: nothing to resume from ({found}): start without resuming")


def _read(folder: Path) -> State:
    try:
        note = json.loads(read_file(folder, "state.json"))
        recorded, format_ = str(note["sha256"]), note["format"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder / 'state.json'}: truncated or altered") from None
    if format_ != FORMAT:
        raise CheckpointError(f"{folder}: format {format_!r}, wanted {FORMAT!r}: written by another version of dmkd")
    content = read_file(folder, "state.pt", recorded)
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return State(saved["epoch"], saved["iteration"], saved["payload"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{folder / 'state.pt'}: not a state of a run ({type(error).__name__})") from None


def _states(folder: Path) -> list[Path]:
    """Folders of states, oldest first."""
    found = [entry for entry in folder.glob("state-*") if _NAME.fullmatch(entry.name) and entry.is_dir()]
    return sorted(found, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("state-"))


def _plain(value: Any, path: str) -> Any:
    """`value` made of nothing but exact built-in types and detached CPU tensors, strides kept (channels-last resumes exactly)."""
    if isinstance(value, Tensor):
        return _own_storage(value.detach().cpu())
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{path}[{position}]") for position, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise CheckpointError(f"{path}: found {type(value).__name__}, wanted a tensor, number, string, None, list, tuple or dict")


def _key(key: Any, path: str) -> str | int:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    raise CheckpointError(f"{path}: key {key!r} is a {type(key).__name__}, wanted a string or a whole number")


def _own_storage(tensor: Tensor) -> Tensor:
    """A slice would be saved with all of the memory that it is a window on."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
