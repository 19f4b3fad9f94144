"""A disk that fills up while a checkpoint is written."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest


class FullDisk:
    """Lets so many bytes through, then fails as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free, opened = free, Path.open

        def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = opened(path, mode, *args, **kwargs)
            return self._watched(file) if "w" in mode else file

        monkeypatch.setattr(Path, "open", open_)

    def _watched(self, file: io.BufferedWriter) -> Any:
        disk = self

        class Watched:
            def __enter__(self) -> Watched:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, content: bytes) -> int:
                disk.free -= len(content)
                if disk.free < 0:
                    file.write(content[: disk.free])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(content)

        return Watched()
