"""Weight files of other projects, read without running anything of theirs: tensors, plain values, and arrays as data."""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dmkd.errors import WeightsError

NESTED = ("state_dict", "model", "net", "network")
"""Keys under which published files keep their state_dict."""
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
"""Types of the arrays that are taken in."""


@dataclass(frozen=True)
class Published:
    """What a file holds."""

    path: Path
    state: dict[str, Tensor]
    """Names to tensors, as in the file, but for "module." in front (DataParallel)."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The landmark networks' description of themselves; empty where the file has none."""


def read_published(path: Path) -> Published:
    """Read a .safetensors, .pth or .pt file: a state_dict, bare or under one of `NESTED`, and its "meta" if it has one.

    Nothing of the file is run. Raises `WeightsError`: no such file, not readable, or asking for anything but plain data.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; wanted a .safetensors, .pth or .pt file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not readable ({_one_line(error)}): get the file again") from None
    meta = content.get("meta") if isinstance(content, Mapping) else None
    state = _state(content, path)
    return Published(path, state, dict(meta) if isinstance(meta, Mapping) else {})


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")  # of old pickle protocols: the file loads, or it is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes meet torch's reader with errors of a dozen classes
        raise WeightsError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if asked is None:
        return f"not readable ({_one_line(error)}): truncated, or no weight file; get it again"
    return (
        f"asks for {asked[1]} when it is opened, which could run code, so it is not opened (nothing was run): "
        "where you trust its source, save its state_dict alone with torch.save(net.state_dict(), FILE)"
    )


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping):
        content = {str(name).removeprefix("module."): value for name, value in content.items()}
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        found = (
            f"a mapping with {', '.join(list(content)[:4]) or 'nothing in it'}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise WeightsError(f"{path}: holds {found}, wanted a state_dict (names to tensors), bare or under {', '.join(NESTED)}")
    for name, value in content.items():
        if value.layout != torch.strided or value.is_meta or value.is_complex() or value.is_quantized:
            raise WeightsError(f"{path}: {name} is {_kind(value)}, wanted an ordinary tensor of real numbers: save it as one")
    return dict(content)


def _kind(value: Tensor) -> str:
    if value.is_meta:
        return "without data (device meta)"
    words = ["quantized"] * value.is_quantized + ["sparse"] * (value.layout != torch.strided)
    return " ".join([*words, str(value.dtype).removeprefix("torch.")])


class Array:
    """Stands in for a NumPy array in a pickle: takes its bytes, runs nothing of NumPy's own unpickling."""

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, tuple[int, ...], Kind, bool, bytes]) -> None:
        _version, shape, kind, by_columns, raw = state
        if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * kind.type.itemsize:
            raise ValueError("an array in the file has another size than it says")
        self.value = np.frombuffer(raw, kind.type).reshape(shape, order="F" if by_columns else "C").copy()


class Kind:
    """Stands in for a NumPy dtype: one of `NUMBERS`."""

    def __init__(self, code: str, *_options: Any) -> None:
        if code.lstrip("<>|=") not in NUMBERS:
            raise ValueError(f"an array in the file holds {code!r}, wanted numbers ({', '.join(NUMBERS)})")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">", "="):
            self.type = self.type.newbyteorder(state[1])


def _empty(_kind: type, _shape: tuple[int, ...], _code: bytes) -> Array:
    return Array()


def _number(kind: Kind, raw: bytes) -> int | float:
    return np.frombuffer(raw, kind.type, 1).item()  # type: ignore[no-any-return]


_STAND_INS: list[Any] = [
    (Array, "numpy.ndarray"),
    (Kind, "numpy.dtype"),
    *((_empty, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What a pickle may name beside torch's own list, and what it gets instead."""
