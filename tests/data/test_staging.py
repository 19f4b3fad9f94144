"""Data behind an address: copied once a machine whoever asks, again when they change, never half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dmkd.data import staging
from dmkd.data.staging import is_address, staged
from dmkd.errors import DataError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMKD_CACHE", str(tmp_path / "cache"))
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(name.encode())
    return tmp_path / "source"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_is_whole_and_made_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = staged(source.as_uri())
    assert tree(place) == tree(source)
    before = place.stat().st_mtime_ns
    monkeypatch.setattr(staging, "_copy", None)
    assert staged(source.as_uri()) == place
    assert place.stat().st_mtime_ns == before


def test_what_changes_is_copied_again_and_never_mixed(source: Path) -> None:
    first = staged(source.as_uri())
    (source / "a" / "1.png").write_bytes(b"other bytes")
    (source / "b" / "3.png").unlink()
    second = staged(source.as_uri())
    assert second != first
    assert tree(second) == tree(source)
    assert (first / "b" / "3.png").exists()


def test_processes_that_ask_at_once_share_one_copy(source: Path, tmp_path: Path) -> None:
    code = "import sys; from dmkd.data.staging import staged; print(staged(sys.argv[1]))"
    asking = [
        subprocess.Popen([sys.executable, "-c", code, source.as_uri()], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    places = {process.communicate()[0].strip() for process in asking}
    assert len(places) == 1
    assert tree(Path(places.pop())) == tree(source)
    assert len([path for path in (tmp_path / "cache" / "staged").iterdir() if path.is_dir()]) == 1


def test_a_copy_that_ends_in_the_middle_leaves_none(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    whole = LocalFileSystem.get_file

    def broken(self: LocalFileSystem, path: str, target: str) -> None:
        if path.endswith("3.png"):
            raise ConnectionResetError(104, "Connection reset by peer")
        whole(self, path, target)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "get_file", broken)
        with pytest.raises(DataError, match=r"cannot be copied to .* \(Connection reset by peer\)"):
            staged(source.as_uri())
    assert [path for path in (tmp_path / "cache" / "staged").iterdir() if path.is_dir()] == []
    assert tree(staged(source.as_uri())) == tree(source)


def test_what_cannot_be_read_is_one_line(source: Path) -> None:
    for url, text in [(f"{source.as_uri()}x", "nothing lies there"), ("nonsense://x/y", "nonsense")]:
        with pytest.raises(DataError, match=text):
            staged(url)
    assert is_address("s3://bucket/x")
    assert not is_address("/data/x")
