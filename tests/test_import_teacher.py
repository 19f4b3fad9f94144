"""Teachers in the layouts of their publishers, made here from random weights, against forward passes written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from dmkd.checkpoint import load_model, read_info
from dmkd.cli import main
from dmkd.data.views import centre_view, to_unit
from dmkd.errors import ConfigError, DmkdError
from dmkd.import_teacher import drawn_scene, import_teacher
from dmkd.models.backbones import build_backbone
from dmkd.models.import_network import Said

MEAN, STD, SIZE = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 64


def stirred(model: nn.Module) -> nn.Module:
    """Batch-norms as after a training, so that a mistaken name shows."""
    torch.manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.2, 0.2)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.8, 1.5)  # type: ignore[arg-type]
    return model.eval()


class LandmarkNet(nn.Module):
    """The released network: modules in a row, GeM, and a whitening layer, each followed by x / (|x| + 1e-6)."""

    def __init__(self, architecture: str, whitening: int = 0, root: str = "features") -> None:
        super().__init__()
        model = torchvision.models.get_model(architecture, weights=None)
        layers = (
            list(model.features.children())[:-1] if architecture.startswith(("vgg", "alexnet")) else list(model.children())[:-2]
        )
        self.root = root
        self.add_module(root, nn.Sequential(*layers))
        self.pool = nn.Module()
        self.pool.p = nn.Parameter(torch.tensor([2.7]))
        channels = {"alexnet": 256, "resnet18": 512, "vgg16": 512}.get(architecture, 2048)
        self.whiten = nn.Linear(channels, whitening) if whitening else None
        self.meta: dict[str, Any] = {
            "architecture": architecture,
            "pooling": "gem",
            "local_whitening": False,
            "regional": False,
            "whitening": bool(whitening) if root == "features" else whitening,
            "mean": MEAN,
            "std": STD,
            "outputdim": whitening or 512,
        }

    def forward(self, images: Tensor) -> Tensor:
        x = self.get_submodule(self.root)(images)
        x = F.avg_pool2d(x.clamp(min=1e-6).pow(self.pool.p), (x.shape[2], x.shape[3])).pow(1 / self.pool.p)[..., 0, 0]  # type: ignore[operator]
        x = x / (x.norm(dim=1, keepdim=True) + 1e-6)
        if self.whiten is not None:
            x = self.whiten(x)
            x = x / (x.norm(dim=1, keepdim=True) + 1e-6)
        return x

    def save(self, path: Path, **meta: Any) -> str:
        torch.save({"meta": self.meta | meta, "state_dict": self.state_dict()}, path)
        return str(path)


def embedded(folder: Path, picture: Image.Image) -> Tensor:
    """By an ordinary checkpoint folder, as evaluation would."""
    net, info = load_model(folder)
    steps = info["preprocessing"]
    view = centre_view(picture, steps["center_crop"], steps["crop_ratio"], steps["interpolation"])
    with torch.no_grad():
        return net.eval()(torch.from_numpy(to_unit([view]))).embedding[0]


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


def prepared(picture: Image.Image, resize: int = SIZE) -> Tensor:
    """CIR's own: resized by Lanczos, ToTensor, Normalize."""
    resized = TF.resize(picture, [resize], TF.InterpolationMode.LANCZOS)
    return TF.normalize(TF.to_tensor(TF.center_crop(resized, [SIZE, SIZE])), MEAN, STD)[None]


@pytest.mark.parametrize(
    ("architecture", "whitening", "root", "resize"),
    [
        ("resnet18", 0, "features", SIZE),
        ("resnet18", 32, "backbone", round(SIZE / 0.875)),
        ("alexnet", 0, "features", SIZE),
        pytest.param("vgg16", 0, "features", SIZE, marks=pytest.mark.slow),
        pytest.param("resnet101", 2048, "features", SIZE, marks=pytest.mark.slow),
    ],
)
def test_landmark_networks_give_the_embedding_of_the_released_code(  # noqa: PLR0917
    architecture: str, whitening: int, root: str, resize: int, tmp_path: Path, photograph: Image.Image
) -> None:
    released = stirred(LandmarkNet(architecture, whitening, root))
    photograph.save(tmp_path / "picture.png")
    source = released.save(tmp_path / "net.pth")  # type: ignore[operator]
    done = import_teacher("gem", source, tmp_path / "to", Said(resolution=SIZE), tmp_path / "picture.png")
    with torch.no_grad():
        expected = released(prepared(photograph, resize))[0]
    torch.testing.assert_close(embedded(tmp_path / "to", photograph), expected, atol=3e-6, rtol=0)
    assert done.dim == len(expected)
    assert done.parity.holds
    assert done.line.startswith(f"parity with {architecture} put together again on {tmp_path / 'picture.png'} at 64 px")
    assert done.backbone == architecture + "_unpooled" * (architecture in ("vgg16", "alexnet"))


def test_a_learnt_whitening_of_numpy_arrays_becomes_the_linear_layer(tmp_path: Path, photograph: Image.Image) -> None:
    released, rng = stirred(LandmarkNet("resnet18")), np.random.default_rng(0)
    m, projection = rng.normal(size=(512, 1)) * 0.03, np.asfortranarray(rng.normal(size=(24, 512)))
    both = {"ss": {"m": m, "P": projection}, "ms": {"m": m + 1, "P": projection}}
    source = released.save(tmp_path / "net.pth", Lw={"retrieval-SfM-120k": both}, outputdim=np.int64(512))  # type: ignore[operator]
    assert "'retrieval-SfM-120k' (--whitening)" in import_teacher("gem", source, tmp_path / "plain", Said(resolution=SIZE)).note
    import_teacher("gem", source, tmp_path / "to", Said(resolution=SIZE, whitening="retrieval-SfM-120k"))
    with torch.no_grad():
        x = released(prepared(photograph)).numpy().T.astype(np.float64)
    white = projection @ (x - m)
    expected = (white / np.linalg.norm(white, axis=0))[:, 0]
    np.testing.assert_allclose(embedded(tmp_path / "to", photograph).numpy(), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="has 'retrieval-SfM-120k'"):
        import_teacher("gem", source, tmp_path / "no", Said(resolution=SIZE, whitening="gl18"))


def test_torchvision_leaves_the_classifier_out_and_becomes_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = stirred(torchvision.models.resnet18(weights=None))
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, tmp_path / "a.pth"
    )
    arguments = ["import-teacher", "torchvision", str(tmp_path / "a.pth"), "--backbone", "resnet18", "--resolution", str(SIZE)]
    main([*arguments, "--to", str(tmp_path / "to")])
    printed = capsys.readouterr().out
    assert "parity with torchvision's own resnet18 on a drawn scene at 64 px: largest difference" in printed
    assert f"--set teacher.checkpoint={tmp_path / 'to'}" in printed
    with torch.no_grad():
        model.fc = nn.Identity()
        transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=SIZE, resize_size=73)
        expected = F.normalize(model(transform(drawn_scene())[None]))[0]
    torch.testing.assert_close(embedded(tmp_path / "to", drawn_scene()), expected, atol=1e-6, rtol=0)
    assert read_info(tmp_path / "to")["extra"]["imported"]["format"] == "torchvision"


def test_an_embedding_layer_in_the_file_is_kept(tmp_path: Path) -> None:
    model = stirred(torchvision.models.resnet18(weights=None))
    model.fc = nn.Linear(512, 16)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    said = Said(backbone="resnet18", embedding="fc", dim=16, resolution=SIZE)
    import_teacher("torchvision", str(tmp_path / "a.safetensors"), tmp_path / "to", said)
    with torch.no_grad():
        transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=SIZE, resize_size=73)
        expected = F.normalize(model(transform(drawn_scene())[None]))[0]
    torch.testing.assert_close(embedded(tmp_path / "to", drawn_scene()), expected, atol=1e-6, rtol=0)
    for wrong, message in (
        (Said(backbone="resnet18", embedding="head"), "its linear layers are fc"),
        (Said(backbone="resnet18", embedding="fc", dim=8), "embeddings of 16 dimensions"),
    ):
        with pytest.raises(DmkdError, match=message):
            import_teacher("torchvision", str(tmp_path / "a.safetensors"), tmp_path / "no", wrong)


def test_timm_with_its_own_transform(tmp_path: Path) -> None:
    model: Any = stirred(timm.create_model("vit_tiny_patch16_224"))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    done = import_teacher("timm", str(tmp_path / "a.pth"), tmp_path / "to", Said(backbone="vit_tiny_patch16_224"))
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model))  # type: ignore[attr-defined, no-untyped-call]
    with torch.no_grad():
        expected = F.normalize(model.forward_features(transform(drawn_scene())[None])[:, 1:].mean(1))[0]
    torch.testing.assert_close(embedded(tmp_path / "to", drawn_scene()), expected, atol=1e-6, rtol=0)
    assert (done.resolution, read_info(tmp_path / "to")["preprocessing"]["interpolation"]) == (224, "bicubic")
    named = import_teacher("timm", "tf_efficientnet_lite0", tmp_path / "named", Said(resolution=SIZE))
    assert (named.backbone, named.dim) == ("timm/tf_efficientnet_lite0", 1280)


def test_caffe_sees_blue_first_and_0_to_255(tmp_path: Path) -> None:
    model = stirred(torchvision.models.resnet18(weights=None))
    with torch.no_grad():
        model.conv1.weight *= 0.01  # type: ignore[operator]
    torch.save({name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}, tmp_path / "a.pth")
    mean = (104.0, 117.0, 128.0)
    import_teacher("caffe", str(tmp_path / "a.pth"), tmp_path / "to", Said(backbone="resnet18", mean=mean, resolution=SIZE))
    pixels = np.asarray(TF.center_crop(TF.resize(drawn_scene(), [73]), [SIZE, SIZE])).astype(np.float32)
    images = torch.from_numpy(np.ascontiguousarray((pixels[..., [2, 1, 0]] - np.array(mean, np.float32)).transpose(2, 0, 1)))[
        None
    ]
    with torch.no_grad():
        model.fc = nn.Identity()
        expected = F.normalize(model(images))[0]
    torch.testing.assert_close(embedded(tmp_path / "to", drawn_scene()), expected, atol=2e-6, rtol=0)
    recorded = read_info(tmp_path / "to")["preprocessing"]
    assert recorded["channels"] == "bgr"
    np.testing.assert_allclose(np.array(recorded["mean"]) * 255, mean)
    np.testing.assert_allclose(np.array(recorded["std"]) * 255, 1)


def test_any_state_dict_with_everything_said_by_hand(tmp_path: Path) -> None:
    model = stirred(torchvision.models.resnet18(weights=None))
    state = {f"encoder.{name}": tensor for name, tensor in model.state_dict().items()} | {"emb.weight": torch.randn(8, 512)}
    torch.save(state, tmp_path / "a.pth")
    said = Said(
        backbone="resnet18", prefix="encoder.", embedding="emb", pooling="gem", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
        bgr=True, resolution=SIZE, crop_ratio=1.0, interpolation="bicubic",
    )  # fmt: skip
    import_teacher("state_dict", str(tmp_path / "a.pth"), tmp_path / "to", said)
    pixels = TF.to_tensor(TF.center_crop(TF.resize(drawn_scene(), [SIZE], TF.InterpolationMode.BICUBIC), [SIZE, SIZE])).flip(0)
    with torch.no_grad():
        trunk = nn.Sequential(*list(model.children())[:-2])
        places = trunk(TF.normalize(pixels, said.mean, said.std)[None]).clamp(min=1e-6)  # type: ignore[arg-type]
        expected = F.normalize(F.normalize(places.pow(3).mean((2, 3)).pow(1 / 3)) @ state["emb.weight"].T)[0]
    torch.testing.assert_close(embedded(tmp_path / "to", drawn_scene()), expected, atol=1e-6, rtol=0)


def test_inception_of_caffe_with_its_flat_batch_norms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = build_backbone("bninception", SIZE).eval()
    state = body.body.state_dict()
    published = {name: tensor[None] if "_bn." in name and tensor.ndim else tensor for name, tensor in state.items()}
    torch.save(
        published | {"last_linear.weight": torch.zeros(1000, 1024), "last_linear.bias": torch.zeros(1000)}, tmp_path / "a.pth"
    )
    done = import_teacher("caffe", str(tmp_path / "a.pth"), tmp_path / "to", Said(backbone="bninception", resolution=SIZE))
    pixels = np.asarray(TF.center_crop(TF.resize(drawn_scene(), [73]), [SIZE, SIZE])).astype(np.float32)[..., ::-1] - (
        104,
        117,
        128,
    )
    with torch.no_grad():
        places = body(torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1)[None].copy()))[0]
    expected = F.normalize(places.mean((2, 3)))[0]
    torch.testing.assert_close(embedded(tmp_path / "to", drawn_scene()), expected, atol=2e-6, rtol=0)
    assert done.peer == "own transform and head (no second implementation of bninception)"
