"""No objective makes the host wait for a GPU, but where it is stated."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_conformance import home, prepared  # noqa: F401

from dmkd.distill.diffusion import Diffusion
from tests.waits import Waits, pretended_gpu


def test_an_objective_reads_nothing(home):  # noqa: F811
    objective, tuples = prepared(home)
    step = home.step(tuples, withheld=True)
    with Waits() as waits:
        sum(objective(step).values()).backward()
    assert len(waits) == 0, waits.found


def test_an_objective_copies_nothing_between_devices(home):  # noqa: F811
    objective, tuples = prepared(home)
    with torch.no_grad():
        step = home.step(tuples)
    with pretended_gpu() as gpu, Waits() as waits:
        terms = objective.to(gpu, non_blocking=True)(there(step, gpu))
    assert {term.device.type for term in terms.values()} == {"cuda"}
    assert len(waits) == 0, waits.found


def there(value, device):
    """A step, or what it is made of, on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: there(inner, device) for key, inner in value.items()}
    if dataclasses.is_dataclass(value):
        inner = {field.name: there(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **inner)
    return value


@pytest.mark.parametrize(
    ("diffusion", "wanted"),
    [
        (Diffusion(), 0),
        (Diffusion(True), 0),
        (Diffusion(True, form="paper", clip_negative=True), 0),
        # It refuses a graph that has no random walk, and a matrix that has no inverse.
        (Diffusion(True, form="paper"), 2),
    ],
)
def test_diffusion_waits_only_where_it_may_have_to_refuse(diffusion, wanted):
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    with Waits() as waits:
        diffusion.kl(x @ x.T, x @ x.T)
    assert len(waits) == wanted, waits.found
