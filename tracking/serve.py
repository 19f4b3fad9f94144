"""What MLflow runs for a promoted version: pictures as base64 text in, embeddings out. Beside it lies embed.py."""

from __future__ import annotations

import base64
import io
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]


class Served(PythonModel):
    """Column "image": the bytes of a picture file as base64. Gives [N, D]."""

    def load_context(self, context: Any) -> None:
        """Read the network."""
        from embed import Embedder  # late: MLflow runs this file, too, when it is saved and embed.py is not yet beside it

        self.embedder = Embedder(context.artifacts["model"])

    def predict(self, context: Any, model_input: Any, params: Any = None) -> np.ndarray[Any, Any]:
        """[N, D] float32 embeddings of unit length."""
        texts = model_input["image"] if hasattr(model_input, "columns") or isinstance(model_input, dict) else model_input
        found: np.ndarray[Any, Any] = self.embedder([io.BytesIO(base64.b64decode(text, validate=True)) for text in texts])
        return found


mlflow.models.set_model(Served())
