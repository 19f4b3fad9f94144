from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.world import bare_python
from tests.pictures import make_folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 classes of 4 real drawings each, the last 12 classes being the test part."""
    return make_folder(tmp_path_factory.mktemp("pictures"), classes=24, size=48, per_class=4)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_python(tmp_path_factory.mktemp("bare"))
