from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Tiny tensors: a second thread only waits, and where the cores are busy it waits for long. Before torch is imported; started
# processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command line does before MLflow is imported: MLflow reads it once.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# Trials would leave decoded pictures of temporary folders in the user's cache.
os.environ.setdefault("DMKD_SHARE_PICTURES", "0")


@pytest.fixture(scope="session", autouse=True)
def own_features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stored teacher features of earlier test runs would hide what a change does to a teacher. Started processes inherit it."""
    before = os.environ.get("DMKD_FEATURES")
    os.environ["DMKD_FEATURES"] = str(tmp_path_factory.mktemp("features"))
    yield
    os.environ.pop("DMKD_FEATURES")
    if before is not None:
        os.environ["DMKD_FEATURES"] = before
