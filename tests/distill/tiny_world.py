"""Goldens, and a tiny world (networks, pictures, epochs) in which every method can be tried."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmkd.distill.base import Method, Objective, Plan, Shapes, Step
from dmkd.losses import MultiSimilarity, margin_loss
from dmkd.models.embedder import Features

GOLDENS = Path(__file__).parents[1] / "goldens"


class Golden(dict):
    """The arrays of a golden as tensors, its constants, and how closely it must be met."""

    def __init__(self, name: str) -> None:
        manifest = json.loads((GOLDENS / "manifest.json").read_text())
        self.entry, tolerance = manifest["entries"][name], manifest["tolerance"]
        self.constants = self.entry["hyperparameters"]
        official = self.entry["kind"] == "official"
        margin = "margin" in self.constants and "beta" in self.constants
        self.tolerance = tolerance["margin (float32 beta cast)"] if margin else tolerance["official float64"]
        self.gradient_tolerance = self.tolerance if official else tolerance["independent-numpy grads"]
        with np.load(GOLDENS / self.entry["file"]) as arrays:
            super().__init__({key: torch.from_numpy(arrays[key].copy()) for key in arrays.files})

    def leaf(self, key: str) -> Tensor:
        return self[key].clone().requires_grad_()

    def check(self, loss: Tensor, **gradients: Tensor) -> None:
        """The loss, and the gradient of each given leaf, are the golden's; central differences have an absolute error too."""
        torch.testing.assert_close(loss.detach(), self["loss"], rtol=self.tolerance, atol=self.tolerance)
        loss.backward()
        for key, leaf in gradients.items():
            absolute = max(self.gradient_tolerance * self[f"grad_{key}"].abs().max().item(), self.tolerance)
            torch.testing.assert_close(leaf.grad, self[f"grad_{key}"], rtol=self.gradient_tolerance, atol=absolute)


CHANNELS, STAGES = 6, {"layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6}


class TinyNet(nn.Module):
    """Vectors [B, 7] in place of pictures; linear, so that nothing but the objective can fail to learn."""

    def __init__(self, dim: int, stages: dict[str, int] | None = None) -> None:
        super().__init__()
        self.dim, self.channels = dim, stages or STAGES
        self.map = nn.Linear(7, CHANNELS * 4)
        self.stages = nn.ModuleDict({name: nn.Linear(7, 4 * channels) for name, channels in self.channels.items()})
        self.embed = nn.Linear(CHANNELS, dim)

    def forward(self, x: Tensor, stages: tuple[str, ...] = ()) -> Features:
        feature_map = self.map(x).view(-1, CHANNELS, 2, 2)
        pooled = feature_map.mean((2, 3))
        wanted = {name: self.stages[name.replace(".", "_")](x).view(len(x), -1, 2, 2) for name in stages}
        return Features(F.normalize(self.embed(pooled), dim=1), pooled, feature_map, wanted)


@dataclass
class World:
    """A training part of 4 images of each of 8 classes, a student, a teacher, and what a trainer would say about them."""

    method: Method
    teacher_dim: int = 8
    student_stages: dict[str, int] = field(default_factory=lambda: dict(STAGES))
    metric: object = None
    epoch: int = 5
    """Of the plan's 10: halfway, as the steps say."""

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.plan = Plan(epochs=10, iterations_per_epoch=2)
        self.labels, self.pairs = torch.arange(8).repeat_interleave(4), None
        self.pictures = torch.randn(8, 7)[self.labels] + 0.5 * torch.randn(32, 7)
        self.student, self.networks = TinyNet(8, self.student_stages), {}
        # The teacher's stages may be called otherwise; they have the same channels, in the same order.
        theirs = dict(zip(self.method.teacher_stages, STAGES.values(), strict=False)) or dict(STAGES)
        teacher = TinyNet(self.teacher_dim, {name.replace(".", "_"): channels for name, channels in theirs.items()})
        self.networks = {"student": self.student, "teacher": teacher.requires_grad_(False)}
        self.shapes = Shapes(8, CHANNELS, self.student_stages, Shapes(self.teacher_dim, CHANNELS, theirs), classes=8, images=32)

    def embed(self, positions: Tensor, network: str = "student") -> Tensor:
        with torch.no_grad():
            return self.networks[network](self.pictures[torch.as_tensor(positions)]).embedding

    def generator(self) -> Tensor:
        return torch.tensor(100 + self.epoch)

    def objective(self) -> Objective:
        metric = self.metric or (lambda dim: MultiSimilarity().build(dim, 8))
        return self.method.build(self.shapes, metric)

    def rows(self, tuples: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions and views of a batch's rows: every image, each of its views in turn; of tuples, the columns drawn."""
        views, columns = self.method.views.per_image, self.method.batches.columns
        index = torch.arange(32) if tuples is None else tuples[:, : columns or tuples.shape[1]].flatten()
        return index.repeat_interleave(views), torch.arange(views).repeat(len(index))

    def step(self, tuples: Tensor | None, withheld: bool = False, **changes: object) -> Step:
        index, view = self.rows(tuples)
        noise = torch.randn(len(index), 7, generator=torch.Generator().manual_seed(1)) * 0.1
        pictures, stages = self.pictures[index] + noise * (view > 0)[:, None], self.method.stages
        labels = torch.where(index % 4 < 2, self.labels[index], -1) if withheld else self.labels[index]
        student, teacher = self.student(pictures, stages), self.networks["teacher"](pictures, self.method.teacher_stages)
        told = {"iteration": 5000, "progress": 0.5, "tuples": tuples} | changes
        return Step(labels, index, view, torch.zeros_like(index), student, None if self.blind else teacher, **told)

    @property
    def blind(self) -> bool:
        """Whether a step carries no teacher features."""
        return self.method.teacher == "none" or not self.method.views.teacher


def features(embedding, feature_map=None, stages=None):
    empty = embedding.new_zeros(len(embedding), 1, 1, 1)
    feature_map = empty if feature_map is None else feature_map
    return Features(embedding, feature_map.mean((2, 3)), feature_map, stages or {})


def step_of(student, teacher=None, labels=None, **told):
    rows = torch.arange(len(student.embedding))
    told = {"iteration": 0, "progress": 0.0} | told
    return Step(rows if labels is None else labels, rows, 0 * rows, 0 * rows, student, teacher, **told)


def multi_similarity(dim):
    return MultiSimilarity().build(dim, 8)


class FixedTriplets(nn.Module):
    """The margin loss of given triplets, in place of its miner."""

    def __init__(self, triplets, beta):
        super().__init__()
        self.triplets, self.beta = triplets, nn.Parameter(torch.full((6,), beta, dtype=torch.float64))

    def forward(self, x, labels):
        return margin_loss(x, labels, self.triplets, self.beta, margin=0.2)


def total(terms):
    return sum(terms.values())
