"""Descriptors over scales, against the released formula written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dmkd.evaluation.embed import embed
from dmkd.evaluation.multiscale import MultiScale, mean_over_scales, scale_power
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, build_network

SCALES = (1.0, 0.5**0.5, 0.5)


def tiny(**changes: object) -> EmbeddingNet:
    torch.manual_seed(0)
    return build_network(Network("timm/test_efficientnet", weights="none", resolution=64, **changes)).eval()  # type: ignore[arg-type]


def test_vectors_of_three_scales_are_averaged_by_the_learned_exponent():
    network = tiny(pooling="gem", projection="conv", dim=8)
    with torch.no_grad():
        network.head.pool.p.fill_(2.5)
    images = [torch.rand(3, 96, 64), torch.rand(3, 64, 96), torch.rand(3, 96, 64)]
    got = embed(MultiScale(network, SCALES), [images[:2], images[2:]], "cpu")
    for image, vector in zip(images, got, strict=True):
        total = torch.zeros(8)
        for scale in SCALES:
            small = F.interpolate(image[None], scale_factor=scale, mode="bilinear", align_corners=False)
            with torch.no_grad():
                total += network(small).embedding[0] ** 2.5
        wanted = (total / 3) ** (1 / 2.5)
        torch.testing.assert_close(vector, wanted / wanted.norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "power"),
    [({"pooling": "gem", "dim": 0}, 3), ({"pooling": "gem", "dim": 8}, 1), ({"pooling": "average", "dim": 0}, 1)],
)
def test_the_exponent_is_that_of_gem_where_nothing_follows_it(changes, power):
    network = tiny(**changes)
    assert scale_power(network) == power
    assert MultiScale(network, SCALES)([torch.rand(3, 96, 64)]).embedding.isfinite().all()


def test_one_scale_is_the_network_itself():
    network = tiny(pooling="gem", dim=8)
    image = torch.rand(3, 80, 64)
    with torch.no_grad():
        assert torch.equal(MultiScale(network, (1.0,))([image]).embedding, network(image[None]).embedding)


def test_the_mean_has_unit_length_and_exponent_one_is_the_plain_mean():
    vectors = [F.normalize(torch.randn(4, 6), dim=1) for _ in range(3)]
    got = mean_over_scales(vectors, 1.0)
    torch.testing.assert_close(got, F.normalize(torch.stack(vectors).mean(0), dim=1))
