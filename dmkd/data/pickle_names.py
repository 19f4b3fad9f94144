"""What the pickle of a data set may name, and what is made of it: NumPy arrays, dtypes and scalars, bytes, sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN = (str, bytes, int, float, bool, type(None))
"""Types of single values."""
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
"""Types of arrays, beside text."""


class Refused(Exception):
    """The pickle wants something that is not plain data; what, for the end of a sentence that begins with the file's name."""


@dataclass(frozen=True)
class Named:
    """Stands where a pickle names something to be looked up."""

    name: str


@dataclass
class Kind:
    """Stands in for a NumPy dtype: numbers or text, never objects."""

    type: np.dtype[Any]

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take over the byte order, which is all of the state that these types have."""
        if state[1] in ("<", ">", "="):
            self.type = self.type.newbyteorder(state[1])


def key(value: Any) -> Any:
    """Keys are text or numbers: hashing a deeply nested tuple would overflow the interpreter's own stack."""
    if type(value) not in PLAIN:
        raise Refused(f"uses a {type(value).__name__} as a key")
    return value


def _raw(value: Any) -> bytes:
    """Bytes, as Python 3 wrote them, or as Python 2's text of one byte a letter."""
    if not isinstance(value, (str, bytes, bytearray)):  # bytes(10**12) would be that many zeros
        raise ValueError(f"an array's content is a {type(value).__name__}")
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _kind(code: Any, *_options: Any) -> Kind:
    text = str(code).lstrip("<>|=")
    if text not in NUMBERS and not (text[:1] in ("S", "U") and text[1:].isdecimal() and int(text[1:])):
        raise Refused(f"holds an array of {code!r}, wanted numbers or text")
    return Kind(np.dtype(str(code)))


def _size(kind: Any, shape: Any, raw: bytes) -> tuple[int, ...]:
    """The shape, once it is one that fits the bytes."""
    if type(shape) is not tuple or not all(type(side) is int and side >= 0 for side in shape) or not isinstance(kind, Kind):
        raise ValueError(f"an array of shape {shape!r:.40}")
    if math.prod(shape) * kind.type.itemsize != len(raw):
        raise ValueError("an array has another size than it says")
    return shape


def fill(array: NDArray[Any], _version: Any, shape: Any, kind: Any, by_columns: Any, content: Any) -> None:
    """Give an empty array the shape, the type and the bytes of its pickled state, once they fit together."""
    raw = _raw(content)
    set_state: Callable[[Any], None] = array.__setstate__
    set_state((1, _size(kind, shape, raw), kind.type, bool(by_columns), raw))


def _empty(cls: Any, *_rest: Any) -> NDArray[Any]:
    if cls != Named("numpy.ndarray"):
        raise Refused("makes an array of a class of its own")
    return np.empty(0, np.int8)


def _scalar(kind: Any, content: Any) -> Any:
    raw = _raw(content)
    return np.frombuffer(raw, kind.type).reshape(_size(kind, (), raw))[()]


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    raw = _raw(content)
    return np.frombuffer(raw, kind.type).reshape(_size(kind, shape, raw), order=order).copy()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"encodes text as {encoding!r}")
    return str(text).encode("latin-1")


def plain_set(items: Any = ()) -> set[Any]:
    """A set of single values."""
    return {key(item) for item in items}


CALLS: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _kind,
    **{f"numpy.{core}.multiarray._reconstruct": _empty for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "_codecs.encode": _encode,
    **{f"{module}.set": plain_set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": lambda items=(): frozenset(plain_set(items)) for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": lambda: b"" for module in ("builtins", "__builtin__")},
}
"""Every name that a pickle may mention, and what is made of its arguments here; None: it may be mentioned, not called."""
