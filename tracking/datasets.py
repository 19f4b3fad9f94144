"""The data sets of a run, as MLflow's own run inputs: what the UI shows under "Datasets used", and filters by.

An event of the spool holds one: its name (one a part: MLflow keeps a name with a digest once a run, whatever the context), the
digest, the context ("training", "validation" or "test"), where it lies, and a small profile of counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from tracking.client import Unreachable, creation_lock
from tracking.errors import TrackingError

CONTEXTS = ("training", "validation", "test")
CONTEXT_TAG = "mlflow.data.context"
"""The tag of an input that MLflow's UI shows beside its name."""
LONGEST = 36
"""Characters that MLflow stores of a digest."""
TRIES = 4
"""Of processes that make the same data set at once MLflow refuses all but one; the next try finds what that one made."""


def event(name: str, digest: str, context: str, source: str, profile: Mapping[str, object]) -> dict[str, Any]:
    """What the spool keeps. Raises `TrackingError` for an unknown context, or a name or digest that MLflow would refuse."""
    if context not in CONTEXTS:
        raise TrackingError(f"data set context {context!r}: wanted one of {', '.join(CONTEXTS)}")
    if not 0 < len(digest) <= LONGEST or not 0 < len(name) <= 500:
        raise TrackingError(f"data set {name!r}, digest {digest!r}: wanted 1 to 500 and 1 to {LONGEST} characters")
    return {"dataset": {"name": name, "digest": digest, "context": context, "source": source, "profile": dict(profile)}}


def send(client: Any, uri: str, run_id: str, told: Mapping[str, Any]) -> None:
    """Log a data set as an input of a run; a repetition changes nothing. Raises what MLflow raises, and `Unreachable`."""
    from mlflow.exceptions import MlflowException

    for left in reversed(range(TRIES)):
        try:
            with creation_lock(uri):
                client.log_inputs(run_id, datasets=[_input(told)])
            return
        except Unreachable:
            raise
        except MlflowException:
            if not left:
                raise
            time.sleep(0.2)


def _input(told: Mapping[str, Any]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    made = Dataset(
        name=told["name"],
        digest=told["digest"],
        source_type="local",
        source=json.dumps({"uri": told["source"]}),
        profile=json.dumps(told["profile"]),
    )
    return DatasetInput(made, [InputTag(CONTEXT_TAG, told["context"])])
