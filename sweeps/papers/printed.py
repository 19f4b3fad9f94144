"""A published row as its table tests it: with the metrics, resolutions and classes that its printed numbers are of."""

from __future__ import annotations

import re

import polars as pl

from dmkd.config import Config
from dmkd.evaluation import METRICS
from dmkd.space import override
from sweeps.papers.row import Recipe, Values
from tracking.published import load_published

PRINTED = re.compile(r"(?P<part>train|test)(_asymmetric)?(_q(?P<query>\d+)_g(?P<gallery>\d+))?/(?P<metric>[a-z0-9_]+)")
"""A printed number's place among what a run logs; landmark tests, with one name more, are asked for by the recipe."""


def stated(row: Recipe, validation: bool) -> Config:
    """The configuration that the paper trained, tested as its table tests; `validation`: with classes held out instead."""
    if validation and row.config is not None:
        return row.config
    return override(row.final, printed_tests(row.key, row.final))


def printed_tests(key: str, config: Config) -> Values:
    """What has to be measured for the printed numbers of a key beside what always is: metrics, resolutions, training classes."""
    asked = [PRINTED.fullmatch(str(score)) for score in load_published().filter(pl.col("key") == key)["score"].drop_nulls()]
    found = [match.groupdict() for match in asked if match is not None]
    metrics = [row["metric"] for row in found if row["metric"] in METRICS and not METRICS[row["metric"]].always]
    sides = {side: [int(row[side]) for row in found if row[side]] for side in ("query", "gallery")}
    evaluation = config.evaluation
    return {
        "evaluation.metrics": tuple(dict.fromkeys((*evaluation.metrics, *metrics))),
        "evaluation.query_resolutions": tuple(dict.fromkeys((*evaluation.query_resolutions, *sides["query"]))),
        "evaluation.gallery_resolutions": tuple(dict.fromkeys((*evaluation.gallery_resolutions, *sides["gallery"]))),
        "evaluation.train": evaluation.train or any(row["part"] == "train" for row in found),
    }
