"""Every row of every table of the five papers as a configuration that can be trained, or a plain reason why it cannot.

    from sweeps.papers import recipe
    recipe("s2sd/T1/cars196/msdf/ms/128").config

Keys are those of `tracking.published`; `dmkd published` lists them, `dmkd train --published KEY` trains one. What the papers
leave open is in `Recipe.notes`. Neither Ray nor MLflow is needed.
"""

from __future__ import annotations

from functools import cache

from dmkd.config import Config
from dmkd.space import override
from sweeps.papers import aml, obdsd, raml, s2sd, yu2019
from sweeps.papers.row import Plan, Recipe, Row
from tracking.published import configurations, find

__all__ = ["Recipe", "recipe", "recipes"]

MAKERS = {"yu2019": yu2019.plan, "s2sd": s2sd.plan, "aml": aml.plan, "raml": raml.plan, "obdsd": obdsd.plan}
"""Paper -> what it says of a row of its tables."""


@cache
def recipes() -> dict[str, Recipe]:
    """The recipe of every key, in the order of the papers."""
    columns = [name for name in configurations().columns if name != "cells"]
    rows = [Row(**row) for row in configurations().select(columns).iter_rows(named=True)]
    return {row.key: _recipe(row) for row in rows}


def recipe(key: str) -> Recipe:
    """The recipe of a key. Raises `TrackingError`, with the nearest, for a key that no table has."""
    find(key=key)
    return recipes()[key]


def _recipe(row: Row) -> Recipe:
    reason = _reason(row)
    plan = Plan(reason=reason) if reason else MAKERS[row.paper](row)
    config = None if plan.reason else override(Config(), plan.values)
    return Recipe(row.key, config, plan, row.dataset)


def _reason(row: Row) -> str:
    """Why nothing can be trained, where that holds in any paper."""
    if row.table == "text":
        return "a claim in the prose: it compares rows of the tables"
    if row.dataset == "flops":
        return "a cost, not a training: `dmkd networks` computes parameters and GFLOPs"
    if "literature as quoted" in row.setting:
        return f"quoted from the literature: {row.method if row.method != 'none' else row.base_loss} as others published it"
    return ""
