"""Where the host would wait for a GPU, counted on any machine: results that it reads, copies that do not run by themselves."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Torch's own words for results, and shapes of results, that depend on values: `item`, `nonzero`, `unique`, ..."""
UNTAGGED = {"_linalg_check_errors", "_assert_scalar", "is_nonzero", "multinomial"}
"""These read a result too, and are not tagged."""
BY_MASK = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Indexing: a mask is waited for, since it is turned into positions; positions are where they lie elsewhere and are copied."""
COPIES = {"_to_copy", "copy_"}


ON_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and `make gpu`, which shows it"),
    pytest.mark.filterwarnings("default"),
)
"""Marks of tests that `make gpu` runs, the only command that shows the tests a GPU. Libraries of a GPU warn of what they like:
torch itself where a backward pass in a thread of its own begins with a product."""


def needs_gpu(test: T) -> T:
    """The same for one test."""
    for mark in ON_GPU:
        test = mark(test)
    return test


@contextmanager
def in_error_mode() -> Iterator[None]:
    """Torch raises for whatever it knows to wait for the GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Waits(TorchDispatchMode):
    """Counts, while it is entered, what the host would wait for, by operation and the innermost line outside torch that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        result = None
        if name in COPIES:
            result = func(*args, **kwargs)
            waits = _copies_and_waits(name, result, args, kwargs)
        else:
            waits = _reads(func, name, args)
        if waits:
            self.found[f"{name} at {_line()}"] += 1
        return func(*args, **kwargs) if result is None else result

    def __len__(self) -> int:
        return self.found.total()


def _reads(func: Any, name: str, args: Any) -> bool:
    if name in BY_MASK:
        given = [index for index in args[1] if index is not None]
        return any(index.dtype in (torch.bool, torch.uint8) or index.device != args[0].device for index in given)
    return bool(TAGS & set(func.tags)) or name in UNTAGGED


def _copies_and_waits(name: str, result: Tensor, args: Any, kwargs: Any) -> bool:
    source = args[1] if name == "copy_" else args[0]
    by_itself = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
    # What lies otherwise, torch lays out anew first: on a GPU where it can, on the host in memory that is not pinned.
    as_it_lies = source.is_contiguous() or source.stride() == result.stride()
    return source.device != result.device and not (by_itself and as_it_lies)


def _line() -> str:
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename and frame.filename != __file__]
    file = Path(frames[-1].filename)
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else '/'.join(file.parts[-3:])}:{frames[-1].lineno}"


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """The device of tensors that say they are on a GPU and have no values (torch's fake tensors): what reads one fails.

    Real tensors may go there (`to`), modules with their parameters too. Forward passes alone: autograd wants a real device.
    """
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
            warnings.filterwarnings("ignore", message="CUDA is not available")  # and so nothing is computed in bfloat16 there
            yield torch.device("cuda")
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
