"""Pickles of published data sets, read as data: a pickle is a program, and only the steps that put plain values together are run.

What comes out holds nothing but dict, list, tuple, set, frozenset, str, bytes, numbers, booleans, None, and NumPy arrays and
scalars of numbers or of text. No class is looked up, nothing is imported, nothing of NumPy's own unpickling sees unchecked bytes.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.data.pickle_names import CALLS, PLAIN, Kind, Named, Refused, fill, key, plain_set
from dmkd.errors import DataError

LARGEST = 256 * 2**20
"""Bytes of a file that is read at all; the largest of the data sets read here has about 30 MB."""
MOST_STEPS = 20_000_000
"""Instructions that are followed before a file is given up."""
DEEPEST = 32
"""Containers inside one another."""


def read_pickle(path: Path) -> Any:
    """What `path` holds, written by Python 2 (text as Latin-1) or 3, any protocol, by NumPy 1 or 2.

    Raises `DataError`: no such file, too large, damaged, nested too deeply, or asking for anything but plain values (which).
    """
    if not path.is_file():
        raise DataError(f"{path.absolute()} does not exist; wanted a pickle (.pkl)")
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{path}: has {size} bytes, wanted at most {LARGEST}; it is not the annotation file of a data set")
    try:
        return _plain(_Machine().run(path.read_bytes()))
    except Refused as refused:
        raise DataError(f"{path}: {refused}; it is not opened (nothing of it was run): get the file from its authors") from None
    except (ValueError, LookupError, TypeError, EOFError, struct.error, ArithmeticError, AttributeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path}: not readable as a pickle ({reason}): truncated, or no pickle; get it again") from None


class _Machine:
    """A stack, marks in it, and a memo; one method for each kind of instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """Follow the instructions up to the last and hand out what it leaves on top."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if step > MOST_STEPS:
                raise Refused(f"has more than {MOST_STEPS} instructions")
            if opcode.name in PUSHED:
                self.stack.append(argument)
            elif opcode.name in STEPS:
                STEPS[opcode.name](self, argument)
            else:
                raise Refused(_unknown(opcode.name, argument))
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Take what lies above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> list[Any]:
        """Take the uppermost `count` values."""
        if count > len(self.stack):
            raise EOFError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop(self) -> None:
        """Take the uppermost value, or mark."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def into(self, kind: type, add: Callable[[Any], None]) -> None:
        """`add` to the container now on top, which must be of one kind."""
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"found {type(self.stack[-1]).__name__}, wanted {kind.__name__}")
        add(self.stack[-1])

    def append(self, items: list[Any]) -> None:
        """Items to the list on top."""
        self.into(list, lambda target: target.extend(items))

    def put(self, items: list[Any]) -> None:
        """Keys and values, in turn, to the dict on top."""
        self.into(dict, lambda target: target.update(_pairs(items)))

    def add(self, items: list[Any]) -> None:
        """Items to the set on top."""
        self.into(set, lambda target: target.update(map(key, items)))

    def name(self, module: Any, attribute: Any) -> None:
        """Push a name that this reader knows; nothing is looked up."""
        name = f"{module}.{attribute}"
        if name not in CALLS:
            raise Refused(_asks(name))
        self.stack.append(Named(name))

    def call(self) -> None:
        """What a known name makes of its arguments."""
        target, arguments = self.last(2)
        make = CALLS.get(target.name) if isinstance(target, Named) else None
        if make is None or type(arguments) is not tuple:
            raise Refused("calls what is no plain value")
        self.stack.append(make(*arguments))

    def build(self) -> None:
        """Give the array or the dtype on top its state."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Kind) and type(state) is tuple:
            target.set_state(state)
        elif type(target) is np.ndarray and type(state) is tuple:
            fill(target, *state)
        else:
            raise Refused(f"sets the state of a {type(target).__name__}")


def _asks(name: str) -> str:
    return f"asks for {name} when it is opened, which is no plain value and could run code"


def _unknown(instruction: str, argument: Any) -> str:
    if instruction == "INST":
        return _asks(str(argument).replace(" ", "."))
    if instruction in ("PERSID", "BINPERSID"):
        return "asks for an object by a persistent id"
    return f"holds the instruction {instruction}, which makes objects"


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(map(key, items[::2]), items[1::2], strict=True)


PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Instructions whose argument is a value."""

STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_SET": lambda m, _: m.stack.append(set()),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    "DICT": lambda m, _: m.stack.append(dict(_pairs(m.since_mark()))),
    "FROZENSET": lambda m, _: m.stack.append(frozenset(plain_set(m.since_mark()))),
    "APPEND": lambda m, _: m.append(m.last(1)),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.put(m.last(2)),
    "SETITEMS": lambda m, _: m.put(m.since_mark()),
    "ADDITEMS": lambda m, _: m.add(m.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, place: m.memo.__setitem__(place, m.stack[-1])),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.stack.append(m.memo[place])),
    "GLOBAL": lambda m, name: m.name(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
"""The other instructions that are followed."""


def _plain(value: Any) -> Any:
    """`value`, once all of it is plain and no deeper than `DEEPEST`: level by level, each container once."""
    level, seen = [value], set[int]()
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for item in level:
            if type(item) not in PLAIN and id(item) not in seen:
                seen.add(id(item))
                inner += _inside(item)
        level = inner
        if not level:
            return value
    raise Refused(f"holds containers more than {DEEPEST} deep inside one another")


def _inside(item: Any) -> Iterable[Any]:
    if type(item) is dict:
        return item.values()
    if type(item) in (list, tuple, set, frozenset):
        return item  # type: ignore[no-any-return]
    if isinstance(item, (np.ndarray, np.generic, bytearray)):
        return ()
    raise Refused(f"holds a {type(item).__name__.strip('_').lower()}, which is no plain value")
