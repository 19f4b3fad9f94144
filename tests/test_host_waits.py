"""How often a training step waits for the device: never, but where it is stated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dmkd.data.batches import Batch
from dmkd.errors import TrainingError
from dmkd.losses import Library, Loss
from dmkd.losses.base import Sampled
from dmkd.optim import make_optimizer, make_schedule, parameter_groups
from dmkd.terms import Terms
from dmkd.trainer import Training
from tests.every_method import tiny
from tests.losses.test_modules import EVERY, label, unit
from tests.models.test_families import FAMILIES, network, pictures
from tests.waits import Waits, in_error_mode, needs_gpu, pretended_gpu

GPU = torch.device("cuda")
MASK = torch.tensor([True, False, True])


def weighted(x: Tensor) -> Tensor:
    x.requires_grad_()
    x[MASK].sum().backward()
    return x


KNOWN: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "item": (lambda x: x[0].item(), 1),
    "float": (lambda x: float(x.sum()), 1),
    "if": (lambda x: 1 if x.sum() > 0 else 0, 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "where": (lambda x: torch.where(x > 0), 1),
    "masked_select": (lambda x: x.masked_select(MASK), 1),
    "mask": (lambda x: x[MASK], 1),
    "mask, and its gradient": (weighted, 2),
    "mask, written to": (lambda x: x.__setitem__(MASK, torch.zeros(2)), 1),
    "unique": (lambda x: x.unique(), 1),
    "repeats": (lambda x: x.repeat_interleave(torch.tensor([1, 2, 0])), 1),
    "bincount": (lambda x: x.long().bincount(), 1),
    "multinomial": (lambda x: x.multinomial(2), 1),
    "equal": (lambda x: torch.equal(x, x + 1), 1),
    "solve": (lambda x: torch.linalg.solve(torch.eye(3), x), 1),
    "solve without its check": (lambda x: torch.linalg.solve_ex(torch.eye(3), x), 0),
    "two": (lambda x: x[int(x.argmax())].item(), 2),
    "positions": (lambda x: x[torch.tensor([0, 2])], 0),
    "gather": (lambda x: x.gather(0, x.argsort()), 0),
    "fill": (lambda x: x.masked_fill(MASK, 0).sum(), 0),
    "choose": (lambda x: torch.where(MASK, x, 0.0).sum() / MASK.sum(), 0),
    "draw": (lambda x: x.exponential_().argmax(), 0),
}
"""A function, and how often a GPU makes the host wait for it."""


@pytest.mark.parametrize("name", KNOWN)
def test_the_counter_counts_what_is_known_to_wait(name: str) -> None:
    function, wanted = KNOWN[name]
    with Waits() as waits:
        function(torch.tensor([3.0, 1.0, 2.0]))
    assert len(waits) == wanted, waits.found


COPIES: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "there": (lambda x: x.to(GPU), 1),
    "there, by itself": (lambda x: x.to(GPU, non_blocking=True), 0),
    "there, laid out otherwise": (lambda x: x.expand(2, 3).to(GPU, memory_format=torch.contiguous_format, non_blocking=True), 1),
    "there and back": (lambda x: x.to(GPU).cpu(), 2),
    "into": (lambda x: torch.empty(3, device=GPU).copy_(x), 1),
    "by positions from elsewhere": (lambda x: torch.ones(3, device=GPU)[torch.tensor([0, 2])], 1),
    "a list": (lambda x: torch.tensor([1.0, 2.0], device=GPU), 1),
    "made there": (lambda x: torch.zeros(3, device=GPU) + torch.arange(3, device=GPU), 0),
    "another type": (lambda x: torch.zeros(3, device=GPU).double(), 0),
    "a number": (lambda x: torch.zeros(3, device=GPU).new_full((), 2.0), 0),
}


@pytest.mark.parametrize("name", COPIES)
def test_the_counter_counts_copies_between_devices(name: str) -> None:
    function, wanted = COPIES[name]
    x = torch.ones(3)
    with pretended_gpu(), Waits() as waits:
        function(x)
    assert len(waits) == wanted, waits.found


def test_what_is_read_of_a_pretended_gpu_fails() -> None:
    for read in (lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.tolist()):
        with pretended_gpu(), Waits() as waits:
            x = torch.ones(3).to(GPU, non_blocking=True)
            with pytest.raises(Exception, match=r"aten\."):
                read(x)
        assert len(waits) == 1


STATED = {"all": 1, "random": 1}
"""Samplers that list every triplet of a batch, whose number the labels decide; the others give one an anchor."""


def dmkd_waits(waits: Waits) -> int:
    return sum(count for place, count in waits.found.items() if "at dmkd/losses" in place or "at dmkd/mining" in place)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("loss", EVERY, ids=label)
def test_a_loss_waits_as_often_as_is_stated(loss: Loss, reference: bool) -> None:
    """With rows that are left out. What waits inside pytorch-metric-learning is its own affair, and more than nothing."""
    x, labels = unit(12, 5).requires_grad_(), torch.arange(12) % 4 - 1
    more = (unit(9, 5, seed=1), torch.arange(9) % 3 - 1) if reference else ()
    module = loss.build(5, 3)
    with Waits() as waits:
        module(x, labels, *more).backward()
    wanted = STATED.get(loss.sampler, 0) if isinstance(loss, Sampled) and not batch_hard(module) else 0
    if isinstance(loss, Library):
        wanted = 1 + reference
        assert len(waits) > wanted
    assert dmkd_waits(waits) == wanted, waits.found


def batch_hard(module: nn.Module) -> bool:
    return type(module).__name__ == "BatchHardTripletLoss"


@pytest.mark.parametrize("loss", [loss for loss in EVERY if not isinstance(loss, Library)], ids=label)
def test_a_loss_copies_nothing_between_devices(loss: Loss) -> None:
    if isinstance(loss, Sampled) and loss.sampler in STATED:
        loss = type(loss)(sampler="semihard")
    module, x, labels = loss.build(5, 3), unit(12, 5), torch.arange(12) % 4 - 1
    with pretended_gpu(), Waits() as waits:
        value = module.to(GPU, non_blocking=True)(x.to(GPU, non_blocking=True), labels.to(GPU, non_blocking=True))
    assert value.device.type == "cuda"
    assert len(waits) == 0, waits.found


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_of_networks_waits(family: str) -> None:
    net, images = network(family).clone(), pictures(*2 * [FAMILIES[family][1]])
    stages = tuple(net.backbone.stage_channels)
    with Waits() as waits:
        net(images, stages).embedding.sum().backward()
    with pretended_gpu(), waits:
        net.to(GPU, non_blocking=True)(images.to(GPU, non_blocking=True), stages)
    assert len(waits) == 0, waits.found


class Watched(Training):
    """Keeps the batches of its last epoch."""

    made: list[Batch]

    def _steps(self, batches: Iterator[Batch], terms: Terms) -> int:
        self.made = list(batches)
        return super()._steps(iter(self.made), terms)


CHUNKED: dict[str, Any] = {"optim.chunk": 3, "optim.accumulate": 2, "optim.clip": 1.0, "method.batches.iterations": 3}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "margin": ("metric_learning", {"loss.name": "margin", "data.labelled": 0.7}),
    "sgd": ("metric_learning", {"optim.optimizer": "sgd", "optim.schedule": "one_cycle", "optim.precision": "bf16"}),
    "chunks": ("yu_relative_attention", CHUNKED),
    "yu": ("yu_relative_attention", {"optim.optimizer": "adamw", "optim.schedule": "cosine"}),
    "msd_diffusion": ("msd_diffusion", {}),
    "msdfa": ("msdfa", {"optim.clip": 1.0}),
    "asymmetric": ("aml_contrastive_plus", {}),
    "raml": ("raml", {}),
    "raml_ts_reg": ("raml_ts_reg", {}),
    "obd_sd": ("obd_sd", {"teacher.precision": "bf16"}),
    "obd_global": ("obd_global", {}),
    "grouped_triplet": ("grouped_triplet", {}),
    "sized": ("aml_symmetric", {"data.transform": "max_side"}),
}
"""A run for each kind of teacher, of batch and of optimizer; every preset's objective is in tests/distill/test_host_waits.py."""


def trained(name: str, root: Path, teacher: Path, device: torch.device) -> Watched:
    """Both epochs: a teacher's batch-norms are folded in the first step that it sees, which waits, once a run or an epoch."""
    case, changes = RUNS[name]
    training = Watched(tiny(case, root, teacher, {"optim.epochs": 60} | changes), device)
    for _ in range(2):
        training.train_epoch()
    return training


@pytest.mark.parametrize("name", RUNS)
def test_a_step_reads_nothing_and_copies_nothing(name: str, root: Path, teacher: Path) -> None:
    """All of it on the CPU; then, on a pretended GPU, all but the backward pass."""
    training = trained(name, root, teacher, torch.device("cpu"))
    with Waits() as waits:
        training._steps(iter(training.made), Terms(GPU, 1))
    assert len(waits) == 0, waits.found
    if training.config.optim.chunk:
        return  # asks the generator of a real GPU for its state
    with pretended_gpu() as training.device, Waits() as waits:
        moved(training)
        loss = training._loss(training.made[0], Terms(GPU, 1))
        if training.config.optim.optimizer != "sgd":  # whose fused form torch cannot pretend
            for group in training.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            training._optimize(tqdm(disable=True))
    assert loss.device.type == "cuda"
    assert len(waits) == 0, waits.found


def moved(training: Training) -> None:
    """Networks, objective, optimizer and schedule to the training's device."""
    there: dict[str, Any] = {"device": training.device, "non_blocking": True}
    folded = getattr(training.teacher, "_forward", None)
    for module in (training.student, training.objective, *(folded._made.values() if folded else ())):
        module.to(**there)
    optim = training.config.optim
    groups = parameter_groups(training.student, training.objective.parameter_groups(optim.lr), optim)
    training.optimizer = make_optimizer(groups, optim)
    training.schedule = make_schedule(training.optimizer, optim, training.plan.iterations_per_epoch)


def test_a_gpu_is_asked_every_fifty_steps_and_answers_fifty_later() -> None:
    """On the CPU, told that it is a GPU: what is not finite stops the run within a hundred steps, and is named."""
    for bad in (1, 50, 51, 99):
        terms, value = Terms(GPU, 2), {"metric": torch.ones(()), "features": torch.ones(())}
        steps = [value | ({"features": torch.tensor(math.nan)} if step == bad else {}) for step in range(1, 201)]
        with pytest.raises(TrainingError, match=rf"'features' became nan in epoch 3, batch {bad}:"):
            add_all(terms, steps)
        assert len(terms._values) == (100 if bad <= 50 else 150)
    terms = Terms(GPU, 2)
    with Waits() as waits:
        add_all(terms, [value] * 120)
    assert len(waits) == 1, "reading the answer: the event before it is what a GPU is asked by"
    assert terms.means() == {"train/metric": 1.0, "train/features": 1.0, "train/loss": 2.0}
    terms.add({"metric": torch.tensor(math.inf), "features": torch.ones(())})
    with pytest.raises(TrainingError, match="'metric' became inf in epoch 3, batch 121:"):
        terms.means()


def add_all(terms: Terms, steps: list[dict[str, Tensor]]) -> None:
    for step in steps:
        terms.add(step)


@needs_gpu
def test_torch_counts_a_wait_on_a_gpu() -> None:
    x = torch.ones(3, device="cuda")
    with in_error_mode(), pytest.raises(RuntimeError, match="synchronizing"):
        x.sum().item()


@needs_gpu
@pytest.mark.parametrize("name", RUNS)
def test_a_step_on_a_gpu_waits_for_nothing(name: str, root: Path, teacher: Path) -> None:
    training = trained(name, root, teacher, GPU)
    batches = [batch.pin_memory() for batch in training.made]
    terms = Terms(GPU, 1)
    torch.cuda.synchronize()
    with in_error_mode():
        for _ in range(0, 120, len(batches)):
            training._steps(iter(batches), terms)
    assert all(math.isfinite(mean) for mean in terms.means().values())
