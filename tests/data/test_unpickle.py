"""Pickles of data sets: what is plain comes out as Python's own unpickler gives it; what is not is refused, and nothing runs."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from dmkd.data import unpickle
from dmkd.data.unpickle import read_pickle
from dmkd.errors import DataError

PLAIN = {
    "train": {"cids": ["a1", "ünïcode", ""], "cluster": [0, 255, 70000, -3, 2**40, -(2**70)], "empty": [], "none": None},
    "numbers": [1.5, float("inf"), True, False],
    "bytes": [b"", b"\x00\xff", b"x" * 300],
    "nested": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, [4, {"deep": (5,)}])],
    "sets": [{1, 2}, frozenset({"a"}), set()],
    3: "an integer is a key",
    "long": list(range(3000)),
}
SHARED = [1, 2]
ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.array([1, 2], dtype=">i2"),
    np.array(["all_souls_000013", "x"]),
    np.array([b"ab", b"c"]),
    np.array([], dtype=np.uint8),
    np.array(True),
    np.float32(1.25),
    np.int64(-7),
]


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_are_those_of_pythons_own_unpickler(tmp_path, protocol):
    content = pickle.dumps([PLAIN, SHARED, SHARED], protocol)
    got = read_pickle(saved(tmp_path / "a.pkl", content))
    assert got == pickle.loads(content)
    assert got[1] is got[2]
    for array in ARRAYS:
        wanted = pickle.dumps({"x": array, "again": array}, protocol)
        got = read_pickle(saved(tmp_path / "b.pkl", wanted))
        reference = pickle.loads(wanted)["x"]
        assert type(got["x"]) is type(reference)
        np.testing.assert_array_equal(got["x"], reference, strict=reference.dtype.isnative)
        assert got["again"] is got["x"] or protocol < 2 or isinstance(array, np.generic)


ARRAY_OF_PYTHON_2 = (
    b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02\x85"
    b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
    + struct.pack("<qq", 5, -9)
    + b"tb"
)


def test_what_python_2_wrote_is_read_as_latin_1(tmp_path):
    content = b"\x80\x02}q\x00(U\x04ch\xe2t" + ARRAY_OF_PYTHON_2 + b"U\x04junkc__builtin__\nset\n]K\x03a\x85Ru."
    got = read_pickle(saved(tmp_path / "gnd.pkl", content))
    assert got["chât"].tolist() == [5, -9]
    assert got["junk"] == {3}


class Evil:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


class Plainish:
    """An object of a class, pickled by NEWOBJ or copyreg."""


def attacks(marker: Path):
    """(what the message names, content) of pickles that would make `marker`, or an object."""
    touch = f"touch {marker}"
    system = f"{os.system.__module__}.system"
    write = f"open({str(marker)!r}, 'w').close()"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield system, pickle.dumps(Evil(os.system, touch), protocol)
        yield system, pickle.dumps({"train": {"cids": [("a", Evil(os.system, touch))]}}, protocol)
        yield "exec", pickle.dumps([Evil(builtins.exec, write)], protocol)
        yield "eval", pickle.dumps(Evil(builtins.eval, write), protocol)
        yield "getattr", pickle.dumps(Evil(getattr, Evil(builtins.__import__, "os"), "system"), protocol)
        yield "", pickle.dumps(np.array([Evil(os.system, touch)], dtype=object), protocol)
        yield "'O8'", pickle.dumps(np.array([1, "plain"], dtype=object), protocol)
        yield "Plainish" if protocol > 1 else "_reconstructor", pickle.dumps(Plainish(), protocol)
        yield "OrderedDict", pickle.dumps(collections.OrderedDict(a=1), protocol)
    command = touch.encode()
    yield "os.system", b"(S'" + command + b"'\nios\nsystem\n."
    yield "os.system", b"(cos\nsystem\nS'" + command + b"'\no."
    yield "os.system", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R."
    yield "persistent id", b"Pevil\n."
    yield "persistent id", b"\x80\x02U\x01xQ."
    yield "EXT1", b"\x80\x02\x82\x01."
    yield "sets the state of a dict", b"\x80\x02}}U\x01aK\x01sb."
    yield "calls what is no plain value", b"cnumpy\nndarray\n(K\x05\x85tR."
    yield "calls what is no plain value", b"\x80\x02U\x06systemU\x01x\x85R."
    yield "a class of its own", b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tU\x01btR."
    yield "'O'", b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x01OtRU\x08aaaaaaaatR."
    yield "'rot13'", b"c_codecs\nencode\n(U\x01aU\x05rot13tR."
    yield "named", b"]cnumpy\nndarray\na."


def test_nothing_of_a_hostile_pickle_runs_and_the_message_names_what_it_wants(tmp_path):
    marker = tmp_path / "marker"
    for named, content in attacks(marker):
        with pytest.raises(DataError) as caught:
            read_pickle(saved(tmp_path / "evil.pkl", content))
        message = str(caught.value)
        assert named in message
        assert "nothing of it was run" in message
        assert "\n" not in message
    assert not marker.exists()
    pickle.loads(next(attacks(marker))[1])
    assert marker.exists()  # the payload itself is live


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b"\x80\x02" + opening * depth + closing * (depth - 1) + b"."


ITSELF = b"\x80\x02]q\x00h\x00a."
BOMBS = {
    "lists in lists": (nested(40_000, b"]", b"a"), "more than 32 deep"),
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 40_000 + b".", "more than 32 deep"),
    "a deep key": (b"\x80\x02})" + b"\x85" * 40_000 + b"Ns.", "uses a tuple as a key"),
    "a deep item of a set": (b"\x80\x04\x8f()" + b"\x85" * 40_000 + b"\x90.", "uses a tuple as a key"),
    "a far memo": (b"\x80\x02]r\xff\xff\xff\x7fj\xfe\xff\xff\x7f.", "not readable"),
    "bytes that are not there": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "not readable"),
    "a huge array": (ARRAY_OF_PYTHON_2.replace(b"K\x02\x85c", b"J\xff\xff\xff\x7f\x85c") + b".", "another size"),
    "bytes of a number": (ARRAY_OF_PYTHON_2[:-20] + b"J\xff\xff\xff\x7ftb.", "not readable"),
    "text of no length": (b"cnumpy\ndtype\n(U\x02S0tR.", "wanted numbers or text"),
    "a long number": (b"L" + b"9" * 100_000 + b"L\n.", "not readable"),
    "nothing": (b"", "not readable"),
    "no pickle": (b"<html>not found</html>", "not readable"),
    "cut off": (pickle.dumps(PLAIN)[:-30], "not readable"),
    "an empty stack": (b"\x80\x02.", "not readable"),
    "an open mark": (b"\x80\x02t.", "not readable"),
    "half a pair": (b"\x80\x02}(K\x01u.", "not readable"),
    "items of a number": (b"\x80\x02K\x01K\x02a.", "not readable"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_and_damage_end_in_one_line(tmp_path, name):
    content, told = BOMBS[name]
    with pytest.raises(DataError) as caught:
        read_pickle(saved(tmp_path / "bomb.pkl", content))
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_list_in_itself_is_no_endless_walk(tmp_path):
    got = read_pickle(saved(tmp_path / "self.pkl", ITSELF))
    assert got[0] is got


def test_size_and_steps_have_an_end(tmp_path, monkeypatch):
    file = saved(tmp_path / "a.pkl", pickle.dumps(list(range(100))))
    monkeypatch.setattr(unpickle, "MOST_STEPS", 50)
    with pytest.raises(DataError, match="more than 50 instructions"):
        read_pickle(file)
    monkeypatch.setattr(unpickle, "LARGEST", 10)
    with pytest.raises(DataError, match="bytes, wanted at most 10"):
        read_pickle(file)
    with pytest.raises(DataError, match="does not exist"):
        read_pickle(tmp_path / "none.pkl")
