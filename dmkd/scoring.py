"""What a run is measured by: retrieval on held-out classes, and what it cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dmkd.config import Config
from dmkd.data.pictures import Pictures
from dmkd.distill.validation import validation_loss
from dmkd.errors import TrainingError
from dmkd.evaluation.landmarks import LandmarkTests
from dmkd.evaluation.matrix import cells, measure_cells
from dmkd.evaluation.measure import Measure, Side
from dmkd.evaluation.protocol import Outcomes
from dmkd.evaluation.stored import NEVER, stored_embeddings
from dmkd.models.embedder import EmbeddingNet
from dmkd.models.registry import count_gflops, count_parameters


class Scoring:
    """Measures the student, and where the method's gallery is the teacher's, the student's queries in that gallery."""

    def __init__(self, config: Config, device: torch.device, training_classes: int = 0) -> None:
        self._config, self._device, self._training_classes = config, device, training_classes
        self._gallery: dict[str, Tensor] = {}
        looks = config.evaluation.test and config.evaluation.landmarks
        self._landmarks = LandmarkTests(config.data, config.evaluation, device) if looks else None

    def __call__(
        self, name: str, part: Pictures, epoch: int, student: Side, teacher: Side | None
    ) -> tuple[dict[str, float], dict[str, Outcomes]]:
        """Metrics `<role>/<metric>` and outcomes by role, the roles being `name` and `<name>_asymmetric`.

        After the last epoch the roles of the matrix of resolutions (`matrix.Cell`) too, where `evaluation` names some.

        A part with given pairs has `<name>/loss` too, where the method is one on tuples. Raises `TrainingError` where the
        student's embeddings are not finite.
        """
        measure = Measure(part, self._config.data, self._config.evaluation, self._device, self._training_classes)
        queries = measure.embed(student)
        if not torch.isfinite(queries).all():
            raise TrainingError(f"embeddings of {name} are not finite after epoch {epoch}: lower optim.lr, or set optim.clip")
        galleries = {name: queries}
        if self._config.method.gallery == "teacher" and teacher is not None:
            if name not in self._gallery:
                kept = NEVER if self._config.teacher.features == NEVER else ""  # a given file holds the training pictures
                self._gallery[name] = stored_embeddings(measure, teacher, kept)
            galleries[f"{name}_asymmetric"] = self._gallery[name]
        metrics: dict[str, float] = {}
        outcomes: dict[str, Outcomes] = {}
        for role, gallery in galleries.items():
            scores, outcomes[role] = measure.compare(queries, gallery)
            metrics |= {f"{role}/{metric}": value for metric, value in scores.items()}
        if epoch >= self._config.optim.epochs:
            scores, told = self._matrix(measure, name, student, teacher, queries)
            metrics, outcomes = metrics | scores, outcomes | told
        if part.pairs is not None and name != "train":
            given = torch.from_numpy(part.labels), torch.from_numpy(part.pairs)
            loss = validation_loss(self._config.method, queries, self._gallery.get(name), *given)
            metrics |= {} if loss is None else {f"{name}/loss": loss}
        return metrics, outcomes

    def _matrix(
        self, measure: Measure, name: str, student: Side, teacher: Side | None, queries: Tensor
    ) -> tuple[dict[str, float], dict[str, Outcomes]]:
        evaluation = self._config.evaluation
        if not evaluation.query_resolutions and not evaluation.gallery_resolutions:
            return {}, {}
        galleries, known = {False: student}, {student: queries}
        if teacher is not None and name in self._gallery:
            galleries, known = galleries | {True: teacher}, known | {teacher: self._gallery[name]}
        asked = cells(student, galleries, evaluation.query_resolutions, evaluation.gallery_resolutions)
        return measure_cells(measure, name, list(asked), known)

    def landmarks(self, student: Side, teacher: Side | None) -> tuple[dict[str, float], dict[str, Outcomes]]:
        """The test look at the landmark sets (`LandmarkTests.measure`), if there are any: symmetric, and asymmetric where the
        method's gallery is the teacher's."""
        if self._landmarks is None:
            return {}, {}
        size = self._config.evaluation.max_side
        own = replace(student, resolution=size)
        metrics, outcomes = self._landmarks.measure("test", own, own)
        if self._config.method.gallery == "teacher" and teacher is not None:
            more, told = self._landmarks.measure("test_asymmetric", own, replace(teacher, resolution=size))
            metrics, outcomes = metrics | more, outcomes | told
        return metrics, outcomes


def best_device() -> torch.device:
    """Where networks are trained and measured, if nobody says: on the GPU of this machine, if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forget_peak(device: torch.device) -> None:
    """A run begins: what this process held of a GPU before is no cost of it."""
    if device.type == "cuda":
        # Of a card with a number torch cannot forget anything before.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)


def run_costs(seconds: float, device: torch.device) -> dict[str, float]:
    """`cost/train_seconds`; on a GPU `cost/gpu_seconds` and `cost/peak_memory_mb` too."""
    costs = {"cost/train_seconds": seconds}
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        costs |= {"cost/gpu_seconds": seconds, "cost/peak_memory_mb": peak}
    return costs


def model_costs(network: EmbeddingNet, resolution: int) -> dict[str, float]:
    """`model/gflops` of one query (a multiply-add counts one), `model/parameters`, `model/memory_mb` (weights), `model/dim`."""
    held = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    return {
        "model/gflops": count_gflops(network, resolution),
        "model/parameters": float(count_parameters(network)),
        "model/memory_mb": held / 1e6,
        "model/dim": float(network.sizes(())[0]),
    }
