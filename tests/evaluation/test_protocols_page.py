"""docs/protocols.md is what the code says and measures today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dmkd.evaluation import METRICS

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"[+-]?\d+\.\d{4}")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_protocols", DOCS / "make_protocols.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_makes(maker: ModuleType) -> None:
    """Numbers of k-means may differ a little between machines."""
    page = (DOCS / "protocols.md").read_text(encoding="utf-8")
    made = maker.filled(page)
    assert NUMBER.sub("#", made) == NUMBER.sub("#", page), "run: python docs/make_protocols.py"
    kept, new = ([float(number) for number in NUMBER.findall(text)] for text in (page, made))
    np.testing.assert_allclose(new, kept, atol=5e-3)


def test_the_example_has_what_makes_variants_differ(maker: ModuleType) -> None:
    x, labels, _ = maker.example()
    sizes = np.bincount(labels)
    assert (sizes == 1).sum() == 2
    assert sizes.max() > 10
    copies = len(x) - len(np.unique(x, axis=0))
    assert copies == 6
    assert all(abs(other - value) > 1e-3 for _, _, value, _, other in maker.variants())


def test_every_metric_has_a_whole_entry() -> None:
    for name, metric in METRICS.items():
        assert metric.definition, name
        assert metric.papers, name
        assert metric.formula.count("{") == metric.formula.count("}"), name
