from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dmkd.checkpoint import State, load_state, save_state
from dmkd.errors import CheckpointError
from dmkd.models import storage
from tests.full_disk import FullDisk


def same(a: Any, b: Any) -> bool:
    """Equal in type, value, dtype and strides, bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam([{"params": net[0].parameters()}, {"params": net[3].parameters(), "lr": 1e-4}], lr=1e-3)
    for _ in range(3):
        step(net, optimizer)
    return net, optimizer


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = net(torch.randn(5, 3, 8, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_a_state_round_trips_bit_for_bit_and_training_goes_on_alike(tmp_path: Path) -> None:
    net, optimizer = trained()
    payload = {
        "net": dict(net.state_dict()),
        "optimizer": optimizer.state_dict(),
        "random": [random.getstate(), torch.get_rng_state(), None],
        "numbers": {
            "nan": float("nan"),
            "inf": float("inf"),
            "tiny": 5e-324,
            "big": 2**70,
            "yes": True,
            -3: "minus",
            "text": "é",
        },
        "tensors": {0: torch.tensor(1.5, dtype=torch.float16), 1: torch.arange(6).view(2, 3).t(), 2: torch.zeros(0, 3)},
    }
    save_state(State(4, 321, payload), tmp_path)
    state = load_state(tmp_path)
    assert (state.epoch, state.iteration) == (4, 321)
    assert same(state.payload, payload)

    torch.set_rng_state(state.payload["random"][1])
    undisturbed = [step(net, optimizer) for _ in range(3)]
    other, fresh = trained()
    other.load_state_dict(state.payload["net"])
    fresh.load_state_dict(state.payload["optimizer"])
    torch.set_rng_state(state.payload["random"][1])
    assert [step(other, fresh) for _ in range(3)] == undisturbed


def test_numbers_of_numpy_become_plain_and_graphs_are_cut(tmp_path: Path) -> None:
    save_state(State(1, 1, {"x": np.float64(0.1), "p": nn.Parameter(torch.ones(2))}), tmp_path)
    payload = load_state(tmp_path).payload
    assert same(payload, {"x": 0.1, "p": torch.ones(2)})


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"a": {"b": [1, np.zeros(2)]}}, r"payload\.a\.b\[1\]: found ndarray"),
        ({"f": print}, r"payload\.f: found builtin_function_or_method"),
        ({"a": {(1, 2): 3}}, r"payload\.a: key \(1, 2\) is a tuple"),
    ],
)
def test_what_a_safe_file_cannot_hold_is_named(tmp_path: Path, payload: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_state(State(1, 1, payload), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slice_is_saved_without_the_tensor_behind_it(tmp_path: Path) -> None:
    saved = save_state(State(1, 1, {"x": torch.zeros(1_000_000)[:10]}), tmp_path)
    assert (saved / "state.pt").stat().st_size < 10_000


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save_state(State(epoch, 10 * epoch, {"x": torch.full((3,), float(epoch))}), tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state-00000003", "state-00000004"]
    assert load_state(tmp_path).epoch == 4


@pytest.mark.parametrize("name", ["state.pt", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_newest_state_gives_way_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    for epoch in (1, 2):
        newest = save_state(State(epoch, epoch, {"x": torch.full((3,), float(epoch))}), tmp_path)
    content = bytearray((newest / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        (newest / name).write_bytes(content)
    elif damage == "truncate":
        (newest / name).write_bytes(content[: len(content) // 3])
    else:
        (newest / name).unlink()
    with pytest.warns(UserWarning, match="going on from state-00000001") as caught:
        state = load_state(tmp_path)
    assert state.epoch == 1
    assert torch.equal(state.payload["x"], torch.ones(3))
    assert "\n" not in str(caught[0].message)
    save_state(State(2, 2, {}), tmp_path)
    assert load_state(tmp_path).epoch == 2


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        load_state(tmp_path / "none")
    only = save_state(State(1, 1, {}), tmp_path)
    (only / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"nothing to resume from.*truncated or altered"):
        load_state(tmp_path)


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    only = save_state(State(1, 1, {}), tmp_path)
    torch.save({"epoch": 1, "iteration": 1, "payload": {"x": Touch()}}, only / "state.pt")
    note = json.loads((only / "state.json").read_text())
    note["sha256"] = storage.sha256((only / "state.pt").read_bytes())
    (only / "state.json").write_text(json.dumps(note))
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        load_state(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("free", [0, 300, 1500])
def test_a_full_disk_leaves_the_earlier_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    for epoch in (1, 2):
        save_state(State(epoch, epoch, {}), tmp_path)
    with monkeypatch.context() as patch:
        FullDisk(patch, free)
        with pytest.raises(CheckpointError, match="No space left"):
            save_state(State(3, 3, {"x": torch.zeros(1000)}), tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state-00000001", "state-00000002"]
    assert load_state(tmp_path).epoch == 2


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    first = save_state(State(1, 1, {}), tmp_path)
    shutil.copytree(first, tmp_path / ".state-00000002.new-0123456789ab")
    save_state(State(2, 2, {}), tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state-00000001", "state-00000002"]
