from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from dmkd.errors import ConfigError, ShapeError
from dmkd.models.backbones import build_backbone, check_name
from dmkd.models.registry import backbone_names, count_gflops, count_parameters


def images(resolution: int = 64) -> Tensor:
    return torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))


TORCHVISION = {
    "alexnet": lambda net, x: net.classifier(torch.flatten(net.avgpool(x), 1)),
    "resnet18": lambda net, x: net.fc(net.avgpool(x).flatten(1)),
    "densenet121": lambda net, x: net.classifier(x.mean((2, 3))),
    "efficientnet_b0": lambda net, x: net.classifier(net.avgpool(x).flatten(1)),
    "googlenet": lambda net, x: net.fc(x.mean((2, 3))),
    "mobilenet_v2": lambda net, x: net.classifier(x.mean((2, 3))),
    "mobilenet_v3_small": lambda net, x: net.classifier(net.avgpool(x).flatten(1)),
    "mnasnet0_5": lambda net, x: net.classifier(x.mean((2, 3))),
    "regnet_y_400mf": lambda net, x: net.fc(net.avgpool(x).flatten(1)),
    "shufflenet_v2_x0_5": lambda net, x: net.fc(x.mean((2, 3))),
    "squeezenet1_1": lambda net, x: net.classifier(x).flatten(1),
    "swin_t": lambda net, x: net.head(x.mean((2, 3))),
    "convnext_tiny": lambda net, x: net.classifier(net.avgpool(x)),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_map_and_torchvisions_own_head_give_torchvisions_logits(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    whole = torchvision.models.get_model(name, weights=None, **options).eval()
    backbone = build_backbone(name, 64).eval()
    backbone.body.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        feature_map, _ = backbone(images())
        assert feature_map.shape[1] == backbone.channels
        torch.testing.assert_close(TORCHVISION[name](whole, feature_map), whole(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "maxvit_t", "vgg11"])
def test_larger_torchvision_bodies_keep_what_comes_before_the_head(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    whole = torchvision.models.get_model(name, weights=None, **options).eval()
    size = 224 if name == "maxvit_t" else 128
    backbone = build_backbone(name, size).eval()
    backbone.body.load_state_dict(whole.state_dict(), strict=False)
    heads = {
        "inception_v3": lambda x: whole.fc(x.mean((2, 3))),
        "maxvit_t": lambda x: whole.classifier(x),  # noqa: PLW0108  only MaxVit has one
        "vgg11": lambda x: whole.classifier(whole.avgpool(x).flatten(1)),
    }
    with torch.no_grad():
        torch.testing.assert_close(heads[name](backbone(images(size))[0]), whole(images(size)), rtol=1e-4, atol=1e-5)


def test_vit_tokens_as_a_map_equal_the_encoders_and_other_sizes_work() -> None:
    whole = torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64).eval()
    from dmkd.models.from_torchvision import VisionTransformerBackbone

    torch.nn.init.normal_(whole.encoder.pos_embedding)
    with torch.no_grad():
        tokens = torch.cat([whole.class_token.expand(2, -1, -1), whole._process_input(images())], 1)
        expected = whole.encoder(tokens)[:, 1:]
    backbone = VisionTransformerBackbone("vit_b_16", whole).eval()
    backbone.probe(64, backbone.candidates())
    with torch.no_grad():
        feature_map, stages = backbone(images(), ("encoder.layers.encoder_layer_0",))
        torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), expected)
        assert stages["encoder.layers.encoder_layer_0"].shape == (2, 32, 4, 4)
        wide, _ = backbone(torch.randn(1, 3, 48, 96))
    assert wide.shape == (1, 32, 3, 6)


TIMM = ("resnet10t", "tf_efficientnet_lite0", "mambaout_femto", "vit_tiny_patch16_224", "test_convnext2")


@pytest.mark.parametrize("name", TIMM)
def test_timm_maps_pooled_by_timm_equal_its_features(name: str) -> None:
    backbone = build_backbone(f"timm/{name}", 64).eval()
    with torch.no_grad():
        feature_map, _ = backbone(images())
        raw = backbone.body.forward_features(images())
    grid = feature_map.flatten(2).transpose(1, 2)
    if raw.ndim == 3:
        torch.testing.assert_close(grid, raw[:, backbone.body.num_prefix_tokens :])
    elif raw.shape[1] == backbone.channels:
        torch.testing.assert_close(feature_map, raw)
    else:
        torch.testing.assert_close(grid, raw.flatten(1, 2))
    assert feature_map.shape[1] == backbone.channels == timm.create_model(name, num_classes=0).num_features


def test_stages_of_a_resnet_are_its_layers() -> None:
    backbone = build_backbone("resnet18", 64).eval()
    assert backbone.stage_channels == {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    with torch.no_grad():
        last, none = backbone(images())
        same, stages = backbone(images(), ("layer2", "layer4"))
        body = backbone.body
        layer1 = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(images())))))
    assert none == {}
    assert list(stages) == ["layer2", "layer4"]
    torch.testing.assert_close(stages["layer2"], body.layer2(layer1))
    assert torch.equal(stages["layer4"], last)
    assert torch.equal(same, last)


def test_a_stage_is_never_overwritten_by_the_layer_after_it() -> None:
    backbone = build_backbone("vgg11", 64).eval()
    assert "features.0" not in backbone.stage_channels  # the ReLU after this convolution works in place
    with torch.no_grad():
        _, stages = backbone(images(), tuple(backbone.stage_channels))
        x = images()
        for number, layer in enumerate(backbone.body.features):
            x = layer(x.clone())
            if f"features.{number}" in stages:
                torch.testing.assert_close(stages[f"features.{number}"], x)


def test_unpooled_leaves_out_the_last_max_pooling_and_keeps_every_name() -> None:
    whole, unpooled = build_backbone("vgg11", 64), build_backbone("vgg11_unpooled", 64)
    unpooled.load_state_dict(whole.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        small, large = whole(images)[0], unpooled(images)[0]
    assert large.shape == (1, 512, 4, 4)
    assert torch.equal(torch.nn.functional.max_pool2d(large, 2), small)


def test_v1_moves_the_stride_into_the_first_convolution() -> None:
    modern, old = build_backbone("resnet50", 64), build_backbone("resnet50_v1", 64)
    assert list(modern.state_dict()) == list(old.state_dict())
    for layer in ("layer2", "layer3", "layer4"):
        convolutions = [(block.conv1.stride, block.conv2.stride) for block in getattr(old.body, layer)]
        assert convolutions == [((2, 2), (1, 1))] + [((1, 1), (1, 1))] * (len(convolutions) - 1)
    # He et al. 2015, table 1: 3.8e9 for ResNet-50 with the stride in the first convolution, 4.1e9 for the later layout.
    assert count_gflops(old, 224) == pytest.approx(3.86, abs=0.01)
    assert count_gflops(modern, 224) == pytest.approx(4.09, abs=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", r"unknown backbone 'resnet5': nearest are .*'resnet50'"),
        ("timm/tf_efficientnet_light0", r"'timm/tf_efficientnet_lite0'"),
        ("tf_efficientnet_lite0", r"did you mean 'timm/tf_efficientnet_lite0'\?"),
        ("timm/resnet50.not_a_tag", r"unknown backbone"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(name)


def test_stages_inside_a_bottleneck_are_its_convolution_and_its_second_relu() -> None:
    """Yu's teacher layers: the last but one of each block, with the channels of ResNet-18's outputs."""
    backbone = build_backbone("resnet50", 64).eval()
    names = tuple(f"layer{layer}.{last}.{part}" for layer, last in ((1, 2), (4, 2)) for part in ("conv2", "relu2"))
    with torch.no_grad():
        last, stages = backbone(images(), (*names, "layer4.2"))
        body = backbone.body
        before = body.layer1[:2](body.maxpool(body.relu(body.bn1(body.conv1(images())))))
        block = body.layer1[2]
        convolved = block.conv2(torch.relu(block.bn1(block.conv1(before))))
    torch.testing.assert_close(stages["layer1.2.conv2"], convolved)
    torch.testing.assert_close(stages["layer1.2.relu2"], torch.relu(block.bn2(convolved)))
    assert torch.equal(stages["layer4.2"], last)
    assert [backbone.stage_channels[name] for name in names] == [64, 64, 512, 512]
    assert [tuple(stages[name].shape) for name in names[2:]] == [(2, 512, 2, 2)] * 2


def test_a_stage_inside_a_block_has_its_gradient() -> None:
    backbone = build_backbone("resnet50", 64)
    _, stages = backbone(images(), ("layer1.2.relu2",))
    stages["layer1.2.relu2"].sum().backward()
    body = backbone.body
    assert body.layer1[2].conv2.weight.grad.abs().sum() > 0
    assert body.layer1[2].conv3.weight.grad is None


def test_a_stage_that_cannot_be_handed_out_is_refused_with_the_reason() -> None:
    backbone = build_backbone("resnet50", 64)
    for stage in ("layer1.2.bn2", "layer1.2.relu7"):
        with pytest.raises(ConfigError, match=rf"stage '{stage}' cannot be handed out \(.*overwrites.*blocks: layer1, layer2, "):
            backbone.check_stages((stage,))
    assert list(backbone.stage_channels) == ["layer1", "layer2", "layer3", "layer4"]


def test_unknown_stage_names_the_nearest() -> None:
    backbone = build_backbone("resnet18", 64)
    with pytest.raises(ConfigError, match="no stage 'layer5': did you mean 'layer"):
        backbone(images(), ("layer5",))


def test_a_size_that_the_network_cannot_take_is_refused_when_it_is_built() -> None:
    with pytest.raises(ShapeError, match=r"inception_v3.* does not take images of 32 px .*; nearest that it takes: 224 px"):
        build_backbone("inception_v3", 32)
    with pytest.raises(ShapeError, match=r"should be divisible by patch size \(14\)\.\); nearest that it takes: 70 or 56 px"):
        build_backbone("timm/vit_small_patch14_dinov2", 64)


def test_names_are_those_that_can_be_built() -> None:
    names = backbone_names()
    assert {"resnet50", "resnet50_v1", "timm/tf_efficientnet_lite0"} <= set(names)
    for name in names[::100]:
        check_name(name)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b0", "swin_t", "vit_b_16"])
def test_costs_of_whole_networks_equal_the_figures_that_torchvision_publishes(name: str) -> None:
    with torch.device("meta"):
        whole = torchvision.models.get_model(name, weights=None)
    published = next(iter(torchvision.models.get_model_weights(name))).meta
    assert count_parameters(whole) == published["num_params"]
    assert count_gflops(whole, 224) == pytest.approx(published["_ops"], rel=0.01)


def test_costs_of_a_backbone_are_those_of_the_whole_without_the_classifier() -> None:
    backbone = build_backbone("resnet50")
    assert count_parameters(backbone) == 25_557_032 - 2048 * 1000 - 1000
    assert count_gflops(backbone, 224) == pytest.approx(4.089 - 2048 * 1000 / 1e9, abs=1e-3)


def test_gflops_of_a_convolution_and_a_linear_layer_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert count_gflops(net, 8) == pytest.approx((4 * 4 * 8 * 27 + 8 * 16 * 10) / 1e9, rel=1e-12)
    assert all(parameter.device.type == "cpu" for parameter in net.parameters())
