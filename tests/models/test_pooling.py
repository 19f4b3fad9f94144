from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmkd.errors import ShapeError
from dmkd.models.pooling import GeM, gem, make_pooling, unit_length

GOLDEN = Path(__file__).parents[1] / "goldens" / "gem_l2n_p3.0.npz"


def test_gem_then_l2_equals_the_released_code_with_gradients() -> None:
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    feature_map, p = golden["feature_map"].requires_grad_(), golden["p"].requires_grad_()
    pooled = gem(feature_map, p)
    output = pooled / (pooled.norm(dim=1, keepdim=True) + 1e-6)
    loss = (output * golden["weights"]).sum()
    loss.backward()
    torch.testing.assert_close(output, golden["output"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(feature_map.grad, golden["grad_feature_map"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(p.grad, golden["grad_p"], rtol=1e-10, atol=1e-12)


def test_gem_with_p_one_is_the_average_and_large_p_nears_the_maximum() -> None:
    feature_map = torch.rand(2, 3, 4, 5, dtype=torch.float64) + 0.1
    flat = feature_map.numpy().reshape(2, 3, -1)
    np.testing.assert_allclose(gem(feature_map, 1.0), flat.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(gem(feature_map, 500.0), flat.max(-1), rtol=1e-2)


def test_gem_with_an_exponent_for_each_channel_is_gem_of_each_channel() -> None:
    feature_map, p = torch.rand(2, 3, 4, 3, dtype=torch.float64), torch.tensor([1.0, 3.0, 5.5], dtype=torch.float64)
    each = [gem(feature_map[:, channel : channel + 1], float(p[channel])) for channel in range(3)]
    torch.testing.assert_close(gem(feature_map, p), torch.cat(each, 1))
    with pytest.raises(ShapeError, match="found 2 exponents for 3 channels"):
        gem(feature_map, p[:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gem_of_small_half_precision_values_does_not_underflow(dtype: torch.dtype) -> None:
    feature_map = torch.full((1, 2, 3, 3), 1e-3, dtype=dtype)  # its cube is below what float16 can hold
    pooled = gem(feature_map, torch.tensor([3.0]))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, 2), float(torch.tensor(1e-3, dtype=dtype))), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average", lambda x: x.mean(-1)),
        ("max", lambda x: x.max(-1)),
        ("average+max", lambda x: x.mean(-1) + x.max(-1)),
        ("gem", lambda x: (np.maximum(x, 1e-6) ** 3).mean(-1) ** (1 / 3)),
    ],
)
def test_poolings_against_numpy(name: str, expected: object) -> None:
    feature_map = torch.randn(2, 3, 4, 5)
    pooled = make_pooling(name)(feature_map).detach().numpy()
    np.testing.assert_allclose(pooled, expected(feature_map.numpy().reshape(2, 3, -1)), rtol=1e-5)  # type: ignore[operator]


def test_the_exponent_of_gem_is_one_parameter_that_starts_at_three() -> None:
    assert {name: value.tolist() for name, value in GeM().named_parameters()} == {"p": [3.0]}


def test_unit_length_keeps_zero_and_has_finite_gradients_there() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit = unit_length(x)
    unit.sum().backward()
    torch.testing.assert_close(unit.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
