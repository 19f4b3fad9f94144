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
from tests.landmarks import make_landmark_test, make_sfm120k
from tests.pictures import make_cars196, make_cub200, make_folder, make_sop

BATCHES = Batches(size=8, images_per_class=2, replacement=False)
TINY = Network(backbone="timm/mobilenetv3_small_050", weights="none", dim=16, resolution=32, frozen_batchnorm=False)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs wait for the tracker in a folder of these tests' own, not among those of other programs. Workers inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMKD_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def ray_cluster(own_state: None) -> Iterator[None]:
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


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a folder a data set, as $DMKD_DATA would have it."""
    root = tmp_path_factory.mktemp("miniatures")
    make_cub200(root / "cub200", classes=12, per_class=4, size=56)
    make_cars196(root / "cars196", classes=12, per_class=4, size=56)
    make_sop(root / "sop", classes=12, per_class=4, size=56)
    make_sfm120k(root / "sfm120k")
    for name in ("roxford5k", "rparis6k", "oxford5k", "paris6k"):
        make_landmark_test(root / name, name)
    return root
