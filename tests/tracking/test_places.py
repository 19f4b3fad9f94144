"""Small files that are there whole or not at all, and locks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracking.places import take_lock, write_text


def test_a_small_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power keeps what was synced, and may keep the order of nothing else."""
    path, synced, sync = tmp_path / "folder" / "done.json", list[str](), os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_text(encoding="utf-8"))
        assert not path.exists() or path.read_text(encoding="utf-8") == "old"

    monkeypatch.setattr(os, "fsync", noted)
    write_text(path, "old")
    write_text(path, "n\u00e9w\n")
    assert synced == ["old", "n\u00e9w\n"]
    assert path.read_bytes() == "n\u00e9w\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_lock_is_one_process_s_and_is_made_where_it_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    assert take_lock(path, make=False) is None
    assert not path.parent.exists()
    held = take_lock(path)
    assert held is not None
    assert take_lock(path) is None
    assert take_lock(path, make=False) is None
    held.close()
    again = take_lock(path, make=False)
    assert again is not None
    again.close()
