from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dmkd.checkpoint import load_model, save_model
from dmkd.errors import ConfigError
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, Preprocess, assemble, build_network
from dmkd.optim import Optim, parameter_groups


def small(**changes: object) -> EmbeddingNet:
    torch.manual_seed(0)
    settings: dict[str, object] = {"backbone": "resnet18", "weights": "none", "dim": 16, "resolution": 64} | changes
    return build_network(Network(**settings))  # type: ignore[arg-type]


def pictures(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_features_are_the_backbone_pooled_projected_and_normalised() -> None:
    net = small().eval()
    features = net(pictures(), ("layer3",))
    seen = (pictures() - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    feature_map, stages = net.backbone(seen, ("layer3",))
    linear = net.head.linear
    raw = feature_map.mean((2, 3)) @ linear.weight.T + linear.bias
    torch.testing.assert_close(features.feature_map, feature_map)
    torch.testing.assert_close(features.pooled, feature_map.mean((2, 3)))
    torch.testing.assert_close(features.embedding, raw / raw.norm(dim=1, keepdim=True))
    torch.testing.assert_close(features.stages["layer3"], stages["layer3"])
    assert net.sizes(("layer3",)) == (16, 512, {"layer3": 256})
    assert dict(net(pictures()).stages) == {}


def test_without_a_linear_layer_the_pooled_features_are_the_embedding() -> None:
    net = small(dim=0, pooling="average+max").eval()
    features = net(pictures())
    expected = features.feature_map.mean((2, 3)) + features.feature_map.amax((2, 3))
    torch.testing.assert_close(features.embedding, nn.functional.normalize(expected))
    assert net.sizes()[:2] == (512, 512)
    assert list(net.head.parameters()) == []


@pytest.mark.parametrize("projection", ["linear", "conv"])
def test_the_last_layer_starts_by_fan_out_where_asked(projection: str) -> None:
    """Normal with variance 2 / outputs and no bias, as Yu et al. start it; else uniform in +-1 / sqrt(inputs)."""
    net = small(dim=256, projection=projection, head_init="kaiming")
    layer = net.head.linear if projection == "linear" else net.head.project
    weight = layer.weight.detach().flatten()
    deviation = (2 / 256) ** 0.5
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert (weight.abs() > 2 * deviation).float().mean().item() == pytest.approx(0.0455, abs=0.005), "normal, not uniform"
    assert layer.bias is None or not layer.bias.any()
    usual = small(dim=256, projection=projection)
    layer = usual.head.linear if projection == "linear" else usual.head.project
    assert layer.weight.abs().max().item() == pytest.approx(512**-0.5, rel=1e-3)
    assert small(dim=0, head_init="kaiming").sizes()[0] == 512, "there is no layer to start"


def test_after_gem_the_linear_layer_sees_unit_length() -> None:
    net = small(pooling="gem").eval()
    features = net(pictures())
    raw = net.head.linear(nn.functional.normalize(features.pooled))
    torch.testing.assert_close(features.embedding, nn.functional.normalize(raw))


def test_the_conv_projection_is_amls_head() -> None:
    """1x1 convolution without bias, ReLU, GeM, L2 (spec 5.6), against the formula on the backbone's own map."""
    net = small(pooling="gem", projection="conv").eval()
    features = net(pictures(), ("layer4",))
    weight = net.head.project.weight.squeeze()
    projected = torch.einsum("bchw,dc->bdhw", features.feature_map, weight).clamp(min=0)
    pooled = projected.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    torch.testing.assert_close(features.pooled, pooled)
    torch.testing.assert_close(features.embedding, pooled / (pooled.norm(dim=1, keepdim=True) + 1e-6), rtol=1e-4, atol=1e-5)
    assert features.embedding.min() >= 0
    assert features.feature_map.shape[1] == 512
    assert net.sizes()[:2] == (16, 512)
    assert [name for name, _ in net.head.named_parameters()] == ["project.weight", "pool.p"]
    assert [len(group["params"]) for group in parameter_groups(net, [], Optim(lr=1e-4))] == [60, 1, 1]


def test_the_conv_projection_is_saved_cloned_and_started_from(tmp_path: Path) -> None:
    net = small(pooling="gem", projection="conv")
    save_model(net, tmp_path / "m", resolution=64)
    loaded, info = load_model(tmp_path / "m")
    assert info["network"]["projection"] == "conv"
    assert torch.equal(loaded.eval()(pictures()).embedding, net.eval()(pictures()).embedding)
    assert torch.equal(net.clone().eval()(pictures()).embedding, net(pictures()).embedding)
    with pytest.raises(ConfigError, match="projection 'conv', wanted 'linear': set projection=conv"):
        build_network(Network("resnet18", dim=16, pooling="gem", resolution=64, checkpoint=str(tmp_path / "m")))
    with pytest.raises(ConfigError, match=r"projection is conv with student\.dim 0: give the dimension"):
        small(projection="conv", dim=0)


def test_the_linear_layer_starts_as_pytorch_starts_it() -> None:
    net = small(dim=512)
    bound = 512**-0.5  # uniform in +-1/sqrt(inputs)
    for values in (net.head.linear.weight.detach(), net.head.linear.bias.detach()):
        assert values.abs().max() <= bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_scale() -> None:
    net = small()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.eval()
    net.train()
    normed = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert net.training
    assert len(normed) == 20
    assert not any(module.training for module in normed)
    net(pictures()).embedding[:, 0].sum().backward()
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert all(module.weight.grad is not None and module.weight.grad.abs().sum() > 0 for module in normed)


def test_frozen_batchnorm_covers_timms_own_batchnorm() -> None:
    net = small(backbone="timm/tf_efficientnet_lite0").train()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(pictures())
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_batchnorm_that_is_not_frozen_learns_its_statistics() -> None:
    net = small(frozen_batchnorm=False)
    before = net.backbone.body.bn1.running_mean.clone()
    net(pictures())
    assert not torch.equal(net.backbone.body.bn1.running_mean, before)


def test_backbone_and_head_share_out_the_parameters() -> None:
    net = small(pooling="gem")
    parts = [*net.backbone.parameters(), *net.head.parameters()]
    assert {id(parameter) for parameter in parts} == {id(parameter) for parameter in net.parameters()}
    assert [name for name, _ in net.head.named_parameters()] == ["pool.p", "linear.weight", "linear.bias"]
    groups = parameter_groups(net, [], Optim(lr=1e-4))
    assert [len(group["params"]) for group in groups] == [60, 2, 1]
    assert groups[-1]["lr"] == pytest.approx(1e-3)


def test_bgr_networks_see_blue_first() -> None:
    net = assemble(small().network, Preprocess((0.1, 0.2, 0.3), (1.0, 2.0, 4.0), bgr=True))
    red = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(net.normalize(red).flatten(), torch.tensor([-0.1, 0.15, 0.175]))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_mixed_precision_gives_float32_unit_embeddings(dtype: torch.dtype) -> None:
    net = small(pooling="gem").eval()
    with torch.autocast("cpu", dtype=dtype):
        features = net(pictures())
    assert features.feature_map.dtype == dtype
    assert features.embedding.dtype == features.pooled.dtype == torch.float32
    torch.testing.assert_close(features.embedding.norm(dim=1), torch.ones(4))
    assert (features.embedding * net(pictures()).embedding).sum(1).min() > 0.99


def test_a_dead_map_gives_a_finite_embedding() -> None:
    embedding, pooled = small(dim=0).head(torch.zeros(1, 512, 2, 2))
    assert torch.equal(embedding, torch.zeros(1, 512))
    assert torch.equal(pooled, torch.zeros(1, 512))


def test_channels_last_gives_the_same_embedding() -> None:
    net = small().eval()
    plain = net(pictures()).embedding
    moved = net.to(memory_format=torch.channels_last)(pictures().contiguous(memory_format=torch.channels_last)).embedding  # type: ignore[call-overload]
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-5)


def test_unknown_stage_and_dim_override() -> None:
    net = build_network(Network("resnet18", weights="none", resolution=64), dim_override=7)
    assert net(pictures()).embedding.shape == (4, 7)
    assert net.network.dim == 7
    with pytest.raises(ConfigError, match="'layer9'"):
        net.sizes(("layer9",))


def test_a_clone_is_independent_trainable_and_equal() -> None:
    net = assemble(small().network, Preprocess((0.5,) * 3, (0.25,) * 3))
    net.requires_grad_(False)
    twin = net.clone(frozen_batchnorm=False, resolution=96)
    assert (twin.network.resolution, twin.network.backbone, twin.preprocess) == (96, "resnet18", net.preprocess)
    assert twin.backbone.body.bn1.training
    assert torch.equal(twin.eval()(pictures()).embedding, net.eval()(pictures()).embedding)
    assert all(parameter.requires_grad for parameter in twin.parameters())
    with torch.no_grad():
        twin.head.linear.bias.add_(1)
    assert not torch.equal(twin.head.linear.bias, net.head.linear.bias)


def test_frozen_modules_do_not_train_and_keep_their_statistics() -> None:
    net = small(frozen_batchnorm=False, frozen=("conv1", "layer1"))
    fixed = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert fixed == {
        name for name, _ in net.named_parameters() if name.startswith(("backbone.body.conv1.", "backbone.body.layer1."))
    }
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(torch.rand(4, 3, 32, 32)).embedding.sum().backward()
    moved = {name for name, buffer in net.named_buffers() if not torch.equal(buffer, before[name])}
    assert not any("layer1." in name for name in moved)
    assert any("layer2." in name for name in moved)
    assert all(parameter.requires_grad for parameter in net.clone(frozen=()).parameters())
    assert not net.clone().backbone.body.get_submodule("layer1.0.conv1").weight.requires_grad


def test_an_unknown_frozen_module_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"student.frozen: backbone 'resnet18' has no module 'layer9'"):
        small(frozen=("layer9",))


def test_starting_from_a_checkpoint_takes_its_weights_and_preprocessing(tmp_path: Path) -> None:
    saved = assemble(small().network, Preprocess((0.5,) * 3, (0.25,) * 3))
    save_model(saved, tmp_path / "teacher", resolution=64)
    network = Network("resnet18", dim=16, resolution=64, frozen_batchnorm=False, checkpoint=str(tmp_path / "teacher"))
    net = build_network(network)
    assert torch.equal(net.eval()(pictures()).embedding, saved.eval()(pictures()).embedding)
    assert net.network == network
    with pytest.raises(ConfigError, match="dim 16, wanted 32: set dim=16"):
        build_network(network, dim_override=32)
    with pytest.raises(ConfigError, match="folder of a checkpoint"):
        build_network(Network(checkpoint="teacher"))


def test_the_configuration_does_not_import_torch() -> None:
    code = "import sys, dmkd.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
