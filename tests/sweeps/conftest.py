"""One real Ray for all tests of this folder: starting one takes 10 to 20 s."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.batches import Batches
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.yu import Yu
from dmkd.evaluation import Evaluation
from dmkd.losses import MultiSimilarity
from dmkd.models import Network
from dmkd.optim import Optim
from sweeps.cluster import QUIET, ROOT
from tests.pictures import make_folder

BATCHES = Batches(size=8, images_per_class=2, replacement=False)
TINY = Network(backbone="timm/mobilenetv3_small_050", weights="none", dim=16, resolution=32, frozen_batchnorm=False)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Two CPUs, no dashboard; joined by every sweep of the tests, as a user's running cluster would be."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= QUIET | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 signs, 6 drawings each, 48 px."""
    return make_folder(tmp_path_factory.mktemp("pictures") / "signs", classes=16, size=48, per_class=6)


@pytest.fixture(scope="session")
def teacher(pictures: Path) -> Config:
    """A run of one epoch."""
    return Config(
        data=Data(name="folder", root=str(pictures), validation=0.34),
        student=TINY,
        loss=MultiSimilarity(),
        method=MetricLearning(batches=BATCHES),
        optim=Optim(epochs=1, lr=1e-3),
        evaluation=Evaluation(nmi=False),
    )


@pytest.fixture(scope="session")
def base(teacher: Config) -> Config:
    """A student of three epochs that learns from it."""
    from dmkd.space import override

    return override(teacher, {"method": Yu(relative=0.3, batches=BATCHES), "optim.epochs": 3})
