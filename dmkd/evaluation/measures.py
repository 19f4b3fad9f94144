"""The metrics of `names.METRICS` as functions: of the ranks of the positives, and of the space that one network fills."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dmkd.errors import ConfigError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.arrays import Array, Floats, to_numpy
from dmkd.evaluation.clustering import clustering_f1, kmeans, nmi
from dmkd.evaluation.embedding_space import embedding_density, spectral_decay
from dmkd.evaluation.names import METRICS
from dmkd.evaluation.ranks import Ranks

RankMeasure: TypeAlias = Callable[[Ranks], Floats]
"""[n], a value for each query."""


def rank_measures(evaluation: Evaluation) -> dict[str, RankMeasure]:
    """What `evaluation.metrics` asks for of each query beside what is always measured, by logged name."""
    ap, form = Ranks.average_precision, evaluation.average_precision
    known: dict[str, dict[str, RankMeasure]] = {
        "map_step": {"map_step": partial(ap, form="step")},
        "map_trapezoidal": {"map_trapezoidal": partial(ap, form="trapezoidal")},
        "map_at_k": {f"map_at_{k}": partial(ap, form=form, at=k) for k in evaluation.k},
        "map_at_1000": {"map_at_1000": partial(ap, form=form, at=1000)},
        "map_at_1000_released": {"map_at_1000_released": partial(ap, form="released", at=1000)},
        "mp_at_k": {f"mp_at_{k}": partial(Ranks.precision, k=k) for k in evaluation.k},
        "mean_average_precision_at_r_released": {
            "mean_average_precision_at_r_released": partial(Ranks.average_precision_at_r, extra=1)
        },
    }
    return {key: measure for name in METRICS if name in evaluation.metrics for key, measure in known.get(name, {}).items()}


def space_measures(x: Array, labels: Array, evaluation: Evaluation, training_classes: int = 0) -> dict[str, float]:
    """What `evaluation` asks for of one set of vectors x [N, D] with labels [N], by logged name.

    `training_classes`: the number of clusters of the released forms. Raises `ConfigError` where one of these is asked for and
    the number is not given, or there are more clusters than vectors.
    """
    classes = len(np.unique(to_numpy(labels)))

    @cache
    def clusters(number: int) -> NDArray[np.int64]:
        return kmeans(x, number)

    def released() -> NDArray[np.int64]:
        if not training_classes:
            raise ConfigError(
                "nmi_released, clustering_f1_released: have as many clusters as training classes, and none are known"
            )
        return clusters(training_classes)

    known: dict[str, Callable[[], float]] = {
        "nmi": lambda: nmi(labels, clusters(classes)),
        "nmi_released": lambda: nmi(labels, released()),
        "nmi_clusters": lambda: float(classes),
        "clustering_f1": lambda: clustering_f1(labels, clusters(classes)),
        "clustering_f1_released": lambda: clustering_f1(labels, released()),
        "embedding_density": lambda: embedding_density(x, labels),
        "spectral_decay": lambda: spectral_decay(x),
        "trimmed_spectral_decay": lambda: spectral_decay(x, drop=2),
    }
    asked = {*evaluation.metrics, *(["nmi"] if evaluation.nmi else [])}
    return {name: known[name]() for name in METRICS if name in asked and name in known}
