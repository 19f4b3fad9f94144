from __future__ import annotations

import pytest
from tiny_world import Golden, World


@pytest.fixture
def golden():
    return Golden


@pytest.fixture
def world():
    return World
