"""Twelve families of networks: map, sizes, one distillation step, export."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from dmkd.distill import METHODS
from dmkd.distill.base import Shapes, Step
from dmkd.export import export
from dmkd.losses import batch_hard_triplet_loss
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, assemble

FAMILIES = {
    "ResNet": ("resnet18", 64, 512, 2),
    "VGG": ("vgg11", 64, 512, 2),
    "MobileNetV1": ("mobilenet_v1_025", 64, 256, 2),
    "MobileNetV2": ("mobilenet_v2", 64, 1280, 2),
    "EfficientNet": ("timm/tf_efficientnet_lite0", 64, 1280, 2),
    "Inception": ("bninception", 64, 1024, 2),
    "DenseNet": ("densenet121", 64, 1024, 2),
    "RegNet": ("regnet_y_400mf", 64, 440, 2),
    "ConvNeXt": ("timm/convnext_atto", 64, 320, 2),
    "Swin": ("swin_t", 64, 768, 2),
    "ViT": ("timm/vit_tiny_patch16_224", 64, 192, 4),
    "DINOv2": ("timm/vit_small_patch14_dinov2", 56, 384, 4),
}
"""A member of each, the side of its images here, its channels, and the side of its map."""
WITHOUT_BATCHNORM = {"VGG", "ConvNeXt", "Swin", "ViT", "DINOv2"}
UNUSED = {"ConvNeXt": {"backbone.body.head.norm.weight", "backbone.body.head.norm.bias"}}
"""Parameters that belong to the published classifier's head and that no embedding depends on."""


@cache
def network(family: str) -> EmbeddingNet:
    torch.manual_seed(0)
    name, size, _, _ = FAMILIES[family]
    return assemble(Network(name, weights="none", dim=8, resolution=size))


def pictures(height: int, width: int, count: int = 4) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_gives_a_map_with_the_shape_of_its_images(family: str) -> None:
    _, size, channels, side = FAMILIES[family]
    net = network(family).clone().eval()
    stages = tuple(net.backbone.stage_channels)
    with torch.no_grad():
        square = net(pictures(size, size, 2), stages)
        wide = net(pictures(size, 2 * size, 2))
    assert square.feature_map.shape == (2, channels, side, side)
    assert wide.feature_map.shape == (2, channels, side, 2 * side)
    assert net.sizes()[:2] == (8, channels)
    for stage, feature_map in square.stages.items():
        assert feature_map.shape[:2] == (2, net.backbone.stage_channels[stage])
    torch.testing.assert_close(square.embedding.norm(dim=1), torch.ones(2))


def spread(net: EmbeddingNet, images: Tensor) -> None:
    """Batch-norm takes the statistics of `images`: with those of nothing, a deep random network maps all to one point."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        net(images)
    for norm in norms:
        norm.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_takes_a_distillation_step(family: str) -> None:
    """Yu's relative teacher and the triplet loss: finite, and the gradient reaches all that an embedding depends on."""
    size = FAMILIES[family][1]
    net, teacher = network(family).clone(), assemble(Network("timm/test_resnet", weights="none", dim=12, resolution=size)).eval()
    images, labels = pictures(size, size), torch.tensor([0, 0, 1, 1])
    own, theirs = Shapes(*net.sizes()), Shapes(*teacher.sizes())
    shapes = Shapes(own.embedding, own.channels, teacher=theirs, classes=2, images=4)

    class Triplet(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return batch_hard_triplet_loss(x, labels, margin=0.5)

    objective = METHODS["yu"]().build(shapes, lambda dim: Triplet())
    spread(net, images)
    features = net(images)
    with torch.no_grad():
        target = teacher(images)
    index = torch.arange(4)
    step = Step(labels, index, torch.zeros(4), torch.zeros(4), features, target, iteration=0, progress=0.0)
    loss = torch.stack(list(objective(step).values())).sum()
    loss.backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == UNUSED.get(family, set())
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    first = next(p for p in net.backbone.body.parameters() if p.ndim == 4)
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    torch.optim.SGD(net.parameters(), lr=1e-3).step()
    after = net(images).embedding
    assert torch.isfinite(after).all()
    assert not torch.equal(after, features.embedding)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_batchnorm_breaks_nothing_where_there_is_none(family: str) -> None:
    frozen, free = network(family).clone(), network(family).clone(frozen_batchnorm=False)
    normed = [module for module in frozen.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert (not normed) == (family in WITHOUT_BATCHNORM)
    assert frozen.training
    assert not any(module.training for module in normed)
    assert all(module.training for module in free.modules())


@pytest.mark.parametrize("family", ["ViT", "DINOv2"])
def test_positions_are_resized_as_timm_resizes_them(family: str) -> None:
    """Our network, made for its published size, on smaller images: as timm's network made for these, its positions resampled."""
    name, size, _, _ = FAMILIES[family]
    backbone = network(family).clone().eval().backbone
    nn.init.normal_(backbone.body.pos_embed, std=0.5)
    smaller = timm.create_model(name.removeprefix("timm/"), num_classes=0, img_size=size).eval()
    state = backbone.body.state_dict()
    side = size // smaller.patch_embed.patch_size[0]
    prefix = 0 if smaller.no_embed_class else smaller.num_prefix_tokens
    assert state["pos_embed"].shape[1] != smaller.pos_embed.shape[1]
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], [side, side], num_prefix_tokens=prefix)
    smaller.load_state_dict(state)
    images = pictures(size, size, 2)
    with torch.no_grad():
        expected = smaller.forward_features(images)[:, smaller.num_prefix_tokens :]
        found = backbone(images)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


LEAN = ("ViT",)


@pytest.mark.parametrize(
    ("family", "format"),
    [
        pytest.param(family, format, marks=() if family in LEAN and format == "pt2" else pytest.mark.slow)
        for family in FAMILIES
        for format in ("pt2", "onnx")
    ],
)
def test_each_exports_with_parity(family: str, format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    size = FAMILIES[family][1]
    info = export(network(family).clone(), tmp_path / "m", format, images=pictures(size, size))
    assert info["extra"]["parity"]["largest_difference"] <= 1e-4
    assert (tmp_path / "m" / f"model.{format}").is_file()
