"""Files that mean harm, are broken, or are of something else: one line, nothing run, nothing written."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from dmkd.cli import main
from dmkd.errors import CheckpointError, ConfigError, DmkdError, WeightsError
from dmkd.import_teacher import import_teacher
from dmkd.models import import_formats
from dmkd.models.import_network import Said, Taken

SIZE = 64
META: dict[str, Any] = {
    "architecture": "resnet18", "pooling": "gem", "local_whitening": False, "regional": False, "whitening": False,
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "outputdim": 512,
}  # fmt: skip


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def _hostile(path: Path) -> dict[str, tuple[str, Any]]:
    """What is written to `path`, and what the one line says of it."""
    marker, state = path.with_name("marker"), torchvision.models.resnet18(weights=None).state_dict()
    return {
        "payload": ("asks for (posix|nt).system .*nothing was run", {"state_dict": state, "extra": Payload(marker)}),
        "payload in an array": (
            "wanted numbers",
            {"meta": META | {"Lw": np.array([Payload(marker)], dtype=object)}, "state_dict": state},
        ),
        "a whole module": ("asks for .*Linear .* state_dict alone", nn.Linear(2, 2)),
        "no tensors": ("holds a mapping with a, wanted a state_dict", {"a": [1, 2]}),
        "another network": ("does not fit the network: .*missing", torchvision.models.mobilenet_v2(weights=None).state_dict()),
        "too small": ("of another shape", state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}),
        "not finite": ("largest difference nan", state | {"conv1.weight": torch.full((64, 3, 7, 7), math.nan)}),
        "sparse": ("conv1.weight is sparse float32, wanted", state | {"conv1.weight": state["conv1.weight"].to_sparse()}),
        "complex": ("conv1.weight is complex64, wanted", state | {"conv1.weight": state["conv1.weight"].cfloat()}),
        "without data": ("conv1.weight is without data", state | {"conv1.weight": state["conv1.weight"].to("meta")}),
        "nothing": ("holds a mapping with nothing in it", {}),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("payload", "payload in an array", "a whole module", "no tensors", "another network", "too small", "not finite"),
        *("sparse", "complex", "without data", "nothing"),
    ],
)
def test_hostile_files_are_one_line_and_nothing_runs_or_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    message, content = _hostile(path)[case]
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        import_teacher("torchvision", str(path), tmp_path / "to", Said(backbone="resnet18", resolution=SIZE))
    with pytest.raises(SystemExit) as exit_:
        main(["import-teacher", *f"torchvision {path} --backbone resnet18 --resolution 64 --to {tmp_path / 'to'}".split()])
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.pth"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_one_line(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=r"not readable .*truncated.*get it again") as caught:
        import_teacher("torchvision", str(path), tmp_path / "to", Said(backbone="resnet18"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"architecture": "../../etc/passwd"}, "none of torchvision's"),
        ({"pooling": "rmac"}, "has pooling 'rmac'"),
        ({"regional": True, "local_whitening": True}, "has local_whitening, regional"),
        ({"mean": [0.4]}, "meta.mean is .*wanted three numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "meta.std is"),
        ({"architecture": "resnet34"}, "does not fit the network"),
        ({"whitening": True}, "no layer 'whiten'"),
        ({"Lw": {"a": {"ss": {"m": torch.zeros(512), "P": torch.zeros(0, 512)}}}}, "--whitening 'a'.* has 'a'"),
        ({"Lw": 5}, "--whitening 'a'.* has none"),
    ],
)
def test_landmark_files_that_have_no_place_here(meta: dict[str, Any], message: str, tmp_path: Path) -> None:
    layers = nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2])
    state = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save({"meta": META | meta, "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(DmkdError, match=message):
        import_teacher(
            "gem", str(tmp_path / "a.pth"), tmp_path / "to", Said(resolution=SIZE, whitening="a" if "Lw" in meta else "")
        )
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("exponent", [[3.0, 3.0], [0.0], [-1.0], [math.nan]])
def test_an_exponent_that_is_not_one_positive_number_is_one_line(exponent: list[float], tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state | {"pool.p": torch.tensor(exponent)}, tmp_path / "a.pth")
    said = Said(backbone="resnet18", pooling="gem", resolution=SIZE)
    with pytest.raises(WeightsError, match=r"pool\.p (has 2 exponents|is)"):
        import_teacher("state_dict", str(tmp_path / "a.pth"), tmp_path / "to", said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        *((Said(backbone="resnet18", resolution=size), "--resolution") for size in (-5, 1, 100_000)),
        *((Said(backbone="resnet18", crop_ratio=ratio), "--crop-ratio") for ratio in (math.nan, math.inf, -1.0, 1e-9)),
        *((Said(backbone="resnet18", std=(value, 1.0, 1.0)), "--std") for value in (0.0, -1.0, math.nan)),
        (Said(backbone="resnet18", mean=(math.nan, 0.0, 0.0)), "--mean"),
    ],
)
def test_numbers_that_no_network_can_have_are_refused(said: Said, message: str, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=message):
        import_teacher("state_dict", str(tmp_path / "a.pth"), tmp_path / "to", said)
    assert not (tmp_path / "to").exists()


def test_a_folder_with_other_files_or_a_path_that_climbs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    for target, message in ((tmp_path / "home", "which would be lost"), (tmp_path / "home" / ".." / "x", "without '..'")):
        with pytest.raises(CheckpointError, match=message):
            import_teacher("timm", "tf_efficientnet_lite0", target)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_a_network_that_differs_from_its_peer_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = import_formats.FORMATS["timm"]

    def mistaken(source: Path, said: Said) -> Taken:
        taken = take(source, said)
        taken.net.normalize.mean += 0.1
        return taken

    monkeypatch.setitem(import_formats.FORMATS, "timm", mistaken)
    with pytest.raises(WeightsError, match=r"another embedding than timm's own .* nothing was written"):
        import_teacher("timm", "tf_efficientnet_lite0", tmp_path / "to", Said(resolution=SIZE))
    assert not list(tmp_path.iterdir())


def test_what_a_format_settles_itself_is_refused(tmp_path: Path) -> None:
    for format_, said, message in (
        ("torchvision", Said(mean=(0.5, 0.5, 0.5)), "--mean: the format torchvision settles this itself"),
        ("gem", Said(backbone="resnet18"), "a file of the format gem says this itself"),
        ("caffe", Said(), "say which network"),
        ("pickle", Said(), "unknown format 'pickle'"),
        ("torchvision", Said(backbone="resnet19"), "unknown backbone 'resnet19'"),
    ):
        torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
        with pytest.raises(ConfigError, match=message):
            import_teacher(format_, str(tmp_path / "a.pth"), tmp_path / "to", said)
