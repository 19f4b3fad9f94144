from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

RAY = "ray_cluster"
"""The fixture that starts the one Ray of the tests (tests/sweeps/conftest.py)."""

# Tiny tensors: a second thread only waits, and where the cores are busy it waits for long. Before torch is imported; started
# processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command line does before MLflow is imported: MLflow reads it once.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# Trials would leave decoded pictures of temporary folders in the user's cache.
os.environ.setdefault("DMKD_SHARE_PICTURES", "0")


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m gpu` no test sees a GPU: bits are those of a CPU, clusters have what they are told of."""
    if config.option.markexpr != "gpu" and Path("/dev/nvidiactl").exists():  # Ray takes an empty list for a count, too
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def own_features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stored teacher features of earlier test runs would hide what a change does to a teacher. Started processes inherit it."""
    before = os.environ.get("DMKD_FEATURES")
    os.environ["DMKD_FEATURES"] = str(tmp_path_factory.mktemp("features"))
    yield
    os.environ.pop("DMKD_FEATURES")
    if before is not None:
        os.environ["DMKD_FEATURES"] = before


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `tests.every_method`; a file of tests with others has a fixture of its own."""
    from tests.every_method import make_tree

    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny teacher on these pictures, likewise."""
    from tests.every_method import make_teacher

    return make_teacher(root, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in one order: what is compared to the bit must not depend on how threads share the work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def uses_ray(file: str) -> bool:
    """Whether a file of tests (relative to the project's root) asks for the Ray cluster."""
    return RAY in Path(__file__).parents[1].joinpath(file).read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with Ray come first: they take longest. Two processes keep this order with `--no-loadscope-reorder`."""
    items.sort(key=lambda item: not uses_ray(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests run in one process, and all that uses Ray in one: a second cluster would only wait for the first's cores."""
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return RAY if uses_ray(file) else file

    return OneRay(config, log)
