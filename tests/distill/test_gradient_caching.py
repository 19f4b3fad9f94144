"""In chunks or at once: every method has the same loss and the same gradients, in float64 to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import test_conformance
import torch
from torch import Tensor

from dmkd.distill.base import Objective
from dmkd.distill.teachers import NoTeacher
from dmkd.grad_cache import GradientCache, WholeBatch
from dmkd.losses import Margin
from dmkd.optim import Precision

CHUNK, STEPS = 5, 3
home = test_conformance.home
"""A world for every method and every preset."""


class Taught(NoTeacher):
    """The world's teacher as the trainer sees one."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def features(self, student_images: Tensor, teacher_images: Tensor | None, stages: tuple[str, ...]) -> object:
        with torch.no_grad():
            return self.network(teacher_images, stages)


class Follower:
    """A world's student and objective, embedded by `passes` and trained by SGD."""

    def __init__(self, home: object, make: Callable[[torch.nn.Module], WholeBatch], objective: Objective) -> None:
        self.home, self.objective = copy.deepcopy(home), copy.deepcopy(objective)
        self.student, teacher = self.home.student, Taught(self.home.networks["teacher"])
        passes = make(self.student)
        self.passes = passes
        self.home.student = lambda images, stages: passes.student(images)
        self.home.networks["teacher"] = lambda images, stages: passes.teacher(teacher, images, images)

    def gradients(self, tuples: Tensor | None) -> tuple[dict[str, float], dict[str, Tensor]]:
        parameters = {**dict(self.student.named_parameters()), **dict(self.objective.named_parameters(prefix="objective"))}
        for parameter in parameters.values():
            parameter.grad = None
        torch.manual_seed(11)
        terms = self.objective(self.home.step(tuples))
        self.passes.backward(sum(terms.values()))
        found = {name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None}
        with torch.no_grad():
            for name, gradient in found.items():
                parameters[name].sub_(1e-3 * gradient / gradient.norm().clamp_min(1))
        return {name: term.item() for name, term in terms.items()}, found


def test_chunks_give_the_gradients_of_the_whole_batch(home):
    method, home.metric = home.method, lambda dim: Margin().build(dim, 8)
    for network in home.networks.values():
        network.double()
    home.pictures = home.pictures.double()
    objective, tuples = test_conformance.prepared(home)
    precision = Precision("fp32", torch.device("cpu"))
    whole = Follower(home, lambda network: WholeBatch(network, method), objective.double())
    chunked = Follower(home, lambda network: GradientCache(network, method, CHUNK, precision), objective)
    for _ in range(STEPS):
        terms, wanted = whole.gradients(tuples)
        same_terms, found = chunked.gradients(tuples)
        assert same_terms == pytest.approx(terms, rel=1e-9, abs=1e-12)
        assert found.keys() == wanted.keys()
        for parameter, gradient in wanted.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-8, atol=1e-12, msg=parameter)
