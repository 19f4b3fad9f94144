"""A route of dmkd's in MLflow's tracking server: an experiment's runs in one answer, as an Arrow file.

    mlflow server --app-name dmkd ...                # as `mlflow server ...`, with the route
    mlflow server --app-name dmkd-basic-auth ...     # as `--app-name basic-auth`, for whoever may read the experiment

MLflow's own search makes an object of every value and prints it as JSON, twice; a table read by columns takes a tenth of
that. Where a server has not the route, `tracking.rest` asks page by page as ever.
"""

from __future__ import annotations

import gc
import io
import json
from typing import Any

from tracking.conditions import FIELDS, Condition
from tracking.errors import TrackingError
from tracking.rest import ARROW, ROUTE
from tracking.sql import Sql

RARELY = (50_000, 20, 20)
"""When this process looks for garbage that refers to itself. MLflow makes objects by the hundred thousand for a search that the
UI asks for, none of them such garbage, and by Python's own numbers half of its answer was spent looking for it."""


def create_app() -> Any:
    """MLflow's server with the route. MLflow calls it, by its entry point `mlflow.app`."""
    from mlflow.server import app as flask
    from mlflow.server.fastapi_app import app

    _extend(flask)
    return app


def create_protected_app() -> Any:
    """The same with MLflow's users and permissions: the route asks for what reading the experiment asks for."""
    from mlflow.server import app as flask
    from mlflow.server import auth

    _extend(flask)
    auth.BEFORE_REQUEST_VALIDATORS[(ROUTE, "GET")] = auth.validate_can_read_experiment
    return auth.create_app(flask)


def _extend(flask: Any) -> None:
    gc.set_threshold(*RARELY)
    flask.add_url_rule(ROUTE, "dmkd_runs", _runs, methods=["GET"])


def _runs() -> Any:
    from flask import Response, request
    from mlflow.server.handlers import _get_tracking_store

    engine = getattr(_get_tracking_store(), "engine", None)
    if engine is None:
        return Response("this server keeps its runs in no database", 404)
    try:
        experiment = str(int(request.args["experiment_id"]))
        asked = _condition(json.loads(request.args.get("asked", "null")))
        frame = Sql(engine).runs(experiment, asked, request.args.get("deleted") == "1")
    except (KeyError, ValueError, TypeError):
        return Response('wanted experiment_id=NUMBER, asked=null or ["FIELD", VALUE], deleted=0 or 1', 400)
    except TrackingError as error:
        return Response(str(error), 503)
    content = io.BytesIO()
    frame.write_ipc(content, compression="lz4")
    return Response(content.getvalue(), mimetype=ARROW)


def _condition(told: Any) -> Condition | None:
    """What was asked for, as JSON has it. Raises `ValueError` for anything else."""
    if told is None:
        return None
    field, value = told
    value = tuple(value) if isinstance(value, list) else value
    texts = value if isinstance(value, tuple) else (value,)
    if field not in FIELDS or not (type(value) is int or all(isinstance(text, str) for text in texts)):
        raise ValueError(told)
    return Condition(field, value)
