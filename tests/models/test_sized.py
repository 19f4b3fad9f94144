"""Pictures of different sizes through one network: as one by one, with the same gradient."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import VisionTransformer

from dmkd.errors import ConfigError, ShapeError
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, build_network
from dmkd.models.sized import cut, forward_sized

SIZES = [(64, 48), (48, 64), (64, 48), (40, 40), (48, 64)]


@pytest.fixture(scope="module")
def network() -> EmbeddingNet:
    torch.manual_seed(0)
    tiny = Network("timm/test_efficientnet", weights="none", dim=8, pooling="gem", projection="conv", resolution=64)
    return build_network(tiny).double().train()  # batch-norm is frozen by default, so a picture does not see its batch


def test_each_picture_gets_what_it_gets_alone_and_so_does_the_gradient(network: EmbeddingNet) -> None:
    torch.manual_seed(1)
    images = [torch.rand(3, height, width, dtype=torch.float64) for height, width in SIZES]
    weights = torch.randn(len(images), 8, dtype=torch.float64)
    gradients = []
    for embedding in (forward_sized(network, images).embedding, torch.cat([network(image[None]).embedding for image in images])):
        network.zero_grad()
        (embedding * weights).sum().backward()
        told = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}
        gradients.append((embedding.detach(), told))
    (got, ours), (wanted, theirs) = gradients
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-7, atol=1e-10)


def test_padding_is_cut_off_before_the_network(network: EmbeddingNet) -> None:
    images = torch.full((2, 3, 64, 64), torch.nan, dtype=torch.float64)
    images[0, :, :48, :] = 0.3
    images[1, :, :, :40] = 0.6
    sizes = torch.tensor([[48, 64], [64, 40]])
    assert [image.shape for image in cut(images, sizes)] == [(3, 48, 64), (3, 64, 40)]
    assert forward_sized(network, cut(images, sizes)).embedding.isfinite().all()


def test_what_has_no_common_size_is_refused(network: EmbeddingNet) -> None:
    features = forward_sized(network, [torch.rand(3, 64, 48, dtype=torch.float64)])
    assert features.pooled.shape == (1, 8)
    with pytest.raises(ConfigError, match="reads feature maps"):
        _ = features.feature_map
    tokens = VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    with pytest.raises(ShapeError, match="does not take pictures of 64 x 48 px"):
        forward_sized(tokens, [torch.rand(3, 64, 48)])
