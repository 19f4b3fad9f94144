"""Whether the GPUs of this machine can be used: a multiplication by torch, a search by faiss, each tried.

    python -m sweeps.checks.gpu        # prints one line of JSON

A process of its own, for a library that was built for other cards may end the process that calls it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path("/dev/nvidiactl")
SECONDS = 120
"""A first use of CUDA loads hundreds of megabytes."""


class Gpus(TypedDict):
    """What was found. An empty reason: all is well."""

    cards: list[str]
    """Name and architecture of each, as in "NVIDIA H100 (sm_90)"."""
    built_for: list[str]
    """Architectures of the installed torch."""
    torch: str
    """Why torch cannot compute on a card."""
    faiss: str
    """Why faiss cannot search on a card."""


def find_gpus() -> Gpus:
    """Look from a process of its own, which sees every card even where Ray gave this one none."""
    hidden = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES" or value not in ("", "-1")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sweeps.checks.gpu"],
            cwd=ROOT,
            env=hidden,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        found: Gpus = json.loads(done.stdout.splitlines()[-1])
        return found
    except OSError as error:
        return Gpus(cards=[], built_for=[], torch=f"the look at the GPU could not begin ({error})", faiss="")
    except (ValueError, IndexError):
        return Gpus(cards=[], built_for=[], torch=f"the look at the GPU ended with status {done.returncode}", faiss="")
    except subprocess.TimeoutExpired:
        return Gpus(cards=[], built_for=[], torch=f"the GPU did not answer for {SECONDS} s", faiss="")


def look(driver: Path = DRIVER) -> Gpus:
    """The same in this process. `driver`: what is there where a driver is, so that torch has a reason to see no card."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [_card(torch, number) for number in range(count)]
    found = Gpus(cards=cards, built_for=list(torch.cuda.get_arch_list()) if count else [], torch="", faiss="")
    if not count and driver.exists():
        found["torch"] = _reason(torch.cuda.init)
    if count:
        found["torch"] = _reason(lambda: float(torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).sum()))
        found["faiss"] = _reason(_search)
    return found


def _card(torch: Any, number: int) -> str:
    major, minor = torch.cuda.get_device_capability(number)
    return f"{torch.cuda.get_device_name(number)} (sm_{major}{minor})"


def _search() -> None:
    import faiss
    import numpy as np

    if not faiss.get_num_gpus():
        raise RuntimeError("faiss sees no GPU: this is a build for the CPU")
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), 8)
    index.add(np.eye(8, dtype=np.float32))
    index.search(np.eye(8, dtype=np.float32), 1)


def _reason(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as error:  # the libraries raise what they like
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


if __name__ == "__main__":
    print(json.dumps(look()))
