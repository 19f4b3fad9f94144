"""What every method and every preset must do, whatever it is."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dmkd import space
from dmkd.data.batches import Batches
from dmkd.distill import METHODS, PRESETS, S2SD, Asymmetric, Yu
from dmkd.distill.base import Method, Plan
from dmkd.distill.diffusion import Diffusion
from dmkd.losses import Margin
from dmkd.space import Choice, Range

LIMITS = {"weight", "temperature", "metric", "absolute", "relative", "feature_weight", "rel_ts", "rel_ss", "margin"}
MORE = {
    "yu_all": Yu(absolute=1.0, relative=0.3, hint=1.0, attention=1.0),
    "yu_adapter": Yu(hint=1.0, hint_adapter=True),
    "self_alone": Asymmetric(own=True, positives=False, negatives=False),
    "s2sd_euclidean": S2SD(kernel="euclidean", depth=3),
    "s2sd_cosine_chained": S2SD(kernel="cosine", topology="chained", features=False, weight=5.0),
    "s2sd_matrix_nested": S2SD(kernel="matrix", topology="nested", pool_aggregation=True, aggregated_target=False),
    "s2sd_means": S2SD(kernel="means", depth=1),
    **{
        f"{name}_diffused": dataclasses.replace(PRESETS[name], diffusion=Diffusion(True, form="paper", clip_negative=True))
        for name in ("msdf", "bar", "psd")
    },
}
CASES = {name: cls() for name, cls in METHODS.items()} | PRESETS | MORE


def tuned(method: Method) -> Method:
    """As small as the world: few tuples of 32 images, auxiliary spaces of tens of dimensions."""
    if isinstance(method, S2SD):
        return dataclasses.replace(method, dims=tuple(dim // 64 for dim in method.dims))
    if method.batches.kind != "tuples":
        return method
    columns = method.batches.columns
    return dataclasses.replace(method, batches=Batches(kind="tuples", size=4, iterations=4, images_per_class=2, columns=columns))


@pytest.fixture(params=CASES)
def home(request, world):
    method = tuned(CASES[request.param])
    return world(
        method, student_stages={"layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6 - 2 * (request.param == "yu_adapter")}
    )


def prepared(home):
    torch.manual_seed(3)
    objective = home.objective()
    return objective, objective.on_epoch(home)


def test_terms_are_named_finite_scalars(home):
    objective, tuples = prepared(home)
    terms = objective(home.step(tuples))
    assert terms
    for name, term in terms.items():
        assert name.isidentifier()
        assert term.shape == ()
        assert torch.isfinite(term)
    assert sum(terms.values()).item() > 0


def test_the_gradient_reaches_the_student_and_never_the_teacher(home):
    home.networks["teacher"].requires_grad_(True)
    objective, tuples = prepared(home)
    sum(objective(home.step(tuples)).values()).backward()
    used = [*home.student.map.parameters()]
    if home.method.name not in ("s2sd",):
        used += [*home.student.embed.parameters()]
    assert all(x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0 for x in used)
    assert all(x.grad is None for x in home.networks["teacher"].parameters())


def test_every_own_parameter_gets_a_gradient(home):
    home.metric = lambda dim: Margin(sampler="random").build(dim, 8)
    objective, tuples = prepared(home)
    sum(objective(home.step(tuples)).values()).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    heads = [x for name, x in objective.named_parameters() if "beta" not in name]
    assert all(x.grad.abs().max() > 0 for x in heads)


def test_parameter_groups_hold_every_own_parameter_once_and_decay_none(home):
    home.metric = lambda dim: Margin().build(dim, 8)
    objective, _ = prepared(home)
    groups = objective.parameter_groups(1e-5)
    held = [id(x) for group in groups for x in group["params"]]
    assert sorted(held) == sorted(id(x) for x in objective.parameters())
    assert all(group["weight_decay"] == 0 for group in groups)


def test_state_round_trips(home):
    objective, tuples = prepared(home)
    torch.manual_seed(4)
    other = home.objective()
    other.on_epoch(home)
    other.load_state_dict(objective.state_dict(), strict=True)
    step = home.step(tuples)
    for name, term in objective(step).items():
        torch.testing.assert_close(other(step)[name], term, rtol=0, atol=0)


def test_a_frozen_batch_is_learnt(home):
    """What must fall is what has a target that stands still: S2SD's own heads move, see test_s2sd."""
    objective, tuples = prepared(home)
    optimizer = torch.optim.Adam([*home.student.parameters(), *objective.parameters()], lr=1e-2)
    still = ("metric", "auxiliary") if home.method.name == "s2sd" else tuple(objective(home.step(tuples)))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        terms = objective(home.step(tuples))
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(sum(terms[name].item() for name in still))
    assert max(losses[-5:]) < losses[0] - 0.05 * abs(losses[0])


def test_withheld_labels_are_no_obstacle(home):
    objective, tuples = prepared(home)
    for term in objective(home.step(tuples, withheld=True)).values():
        assert torch.isfinite(term)


def test_mixed_precision_gives_finite_float32_terms_and_gradients(home):
    objective, tuples = prepared(home)
    plain = objective(home.step(tuples))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(home.step(tuples))
    sum(terms.values()).backward()
    assert all(torch.isfinite(x.grad).all() for x in home.student.parameters() if x.grad is not None)
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        assert math.isclose(term.item(), plain[name].item(), rel_tol=0.2, abs_tol=0.2), name


@pytest.mark.parametrize("name", CASES)
def test_defaults_lie_inside_their_ranges_and_limits(name):
    method = CASES[name]
    flat = space.flatten(method)
    for key, domain in space.search_space(method).items():
        if domain.when and flat[domain.when[0]] != domain.when[1]:
            continue
        if isinstance(domain, Range):
            assert domain.low <= flat[key] <= domain.high, key
        elif isinstance(domain, Choice):
            assert flat[key] in domain.options, key
    assert space.build(type(method), space.to_dict(method)) == method, "limits hold, and plain values give it back"


@pytest.mark.parametrize("name", CASES)
def test_numbers_outside_their_limits_are_refused(name):
    method = CASES[name]
    keys = LIMITS & set(space.flatten(method))
    for key in keys:
        for value in (-1.0, math.nan, math.inf):
            with pytest.raises(space.ConfigError, match=key):
                space.override(method, {key: value})


@pytest.mark.parametrize("name", CASES)
def test_a_method_says_who_teaches_it_and_what_it_is_called(name):
    method = CASES[name]
    assert METHODS[method.name] is type(method)
    assert method.teacher in ("none", "pretrained", "previous_epoch")
    assert method.gallery in ("student", "teacher")
    assert method.label.startswith(method.name)
    assert type(method).__doc__
    assert 1 <= method.ready_after(Plan(150, 52)) <= 150
    assert method.inactive_terms(Plan(150, 52)) == ()
    assert hash(method) == hash(dataclasses.replace(method))
