"""How much each searched setting decides: Optuna's PED-ANOVA over the trials as the tracker has them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracking.report.material import Material
    from tracking.show import Board

LEAST = 6
"""Trials below which a share would be chance alone."""


def importances(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    """The share of each setting, in a sum of 1; of settings that every trial has, with several values. Empty with few trials.

    `trials`: (settings, score, the higher the better); numbers are numbers, anything else is a name (Watanabe et al., "PED-ANOVA:
    Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", IJCAI 2023).
    """
    import optuna

    names = sorted(set.intersection(*(set(settings) for settings, _ in trials))) if trials else []
    spaces = {name: space for name in names if (space := _space([settings[name] for settings, _ in trials]))}
    if len(trials) < LEAST or not spaces:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for settings, score in trials:
        params = {name: settings[name] for name in spaces}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=score))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def with_importances(board: Board, **found: Any) -> Material:
    """The material of a board's report, with the importances of what every trial searched."""
    from tracking.report.material import gather

    material = gather(board, **found)
    general = [one for one in material.searched if not one.method and len(one.values) == len(material.trials)]
    trials = [
        ({one.name: one.values[place] for one in general}, float(trial[f"metrics.{material.chosen_by}"]))
        for place, trial in enumerate(material.trials)
    ]
    return replace(material, importances=importances(trials))


def _space(values: list[Any]) -> Any:
    """A distribution that holds the values; None where there is only one of them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if len(set(values)) < 2:
        return None
    if not all(isinstance(value, float) for value in values) or len(set(values)) < 3:
        return CategoricalDistribution(sorted(set(values), key=str))
    return FloatDistribution(min(values), max(values), log=min(values) > 0 and max(values) / min(values) >= 20)
