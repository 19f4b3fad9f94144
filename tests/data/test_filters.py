"""`student.interpolation`: the filter of the test transform, without augmentation, in measuring, in a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor

from dmkd import assembly
from dmkd.checkpoint import load_model, read_info, save_model
from dmkd.config import UNNAMED, Config, config_hash
from dmkd.data import Data
from dmkd.data.batches import Batch, Batches, training_batches
from dmkd.data.datasets import Pictures, load_dataset
from dmkd.data.views import Views
from dmkd.distill import PRESETS
from dmkd.errors import ConfigError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.measure import Measure, Side
from dmkd.models import Network
from dmkd.models.embedder import build_network
from dmkd.space import override, to_dict
from dmkd.trainer import fit
from sweeps.papers import recipes
from tests.pictures import make_folder

SIZE = 24


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return load_dataset(Data(root=str(make_folder(tmp_path_factory.mktemp("signs"), classes=4, size=64, wide=8))))


def seen(part: Pictures, positions: list[int], filter_: str) -> Tensor:
    """By torchvision: short side to SIZE / 0.875, then the centre square."""
    transform = Compose([Resize(round(SIZE / 0.875), InterpolationMode(filter_)), CenterCrop(SIZE)])
    pictures = [transform(Image.open(part.file(position)).convert("RGB")) for position in positions]
    return torch.stack([pil_to_tensor(picture).float() / 255 for picture in pictures])


def small(**changes: object) -> Network:
    settings = {"backbone": "resnet18", "weights": "none", "dim": 8, "resolution": SIZE}
    return Network(**(settings | changes))  # type: ignore[arg-type]


def test_each_side_sees_unaugmented_pictures_through_its_own_filter(signs: Pictures) -> None:
    options = {"student_resolution": SIZE, "teacher_resolution": SIZE, "epoch": 0, "seed": 0}
    plain = Batches(kind="plain", size=8, replacement=False)
    own = Views(augmentation="none")
    (batch,) = training_batches(signs, own, plain, filters=("lanczos", "bicubic"), **options)  # type: ignore[arg-type]
    positions = batch.index.tolist()
    torch.testing.assert_close(batch.student, seen(signs, positions, "lanczos"))
    torch.testing.assert_close(batch.teacher, seen(signs, positions, "bicubic"))
    (same,) = training_batches(signs, own, plain, filters=("lanczos", "lanczos"), **options)  # type: ignore[arg-type]
    assert same.teacher is same.student
    (crops,) = training_batches(signs, Views(), plain, filters=("lanczos", "bicubic"), **options)  # type: ignore[arg-type]
    (bilinear,) = training_batches(signs, Views(), plain, **options)  # type: ignore[arg-type]
    assert crops.teacher is crops.student, "augmented views are bilinear"
    assert torch.equal(crops.student, bilinear.student)


@pytest.mark.parametrize("filter_", ["bilinear", "bicubic", "lanczos"])
def test_a_network_is_measured_and_saved_with_its_filter(signs: Pictures, tmp_path: Path, filter_: str) -> None:
    net = build_network(small(interpolation=filter_)).eval()
    found = Measure(signs, Data(), Evaluation(), torch.device("cpu")).embed(Side(net, SIZE))
    with torch.no_grad():
        wanted = net(seen(signs, list(range(len(signs))), filter_)).embedding
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    save_model(net, tmp_path / "model", resolution=SIZE)
    assert read_info(tmp_path / "model")["preprocessing"]["interpolation"] == filter_
    again, _ = load_model(tmp_path / "model")
    assert again.preprocess == net.preprocess


def test_what_starts_from_a_checkpoint_keeps_its_filter_unless_told(tmp_path: Path) -> None:
    save_model(build_network(small(interpolation="lanczos")), tmp_path / "model", resolution=SIZE)
    start = {"checkpoint": str(tmp_path / "model")}
    kept = build_network(small(**start)).preprocess
    told = build_network(small(interpolation="bicubic", **start)).preprocess
    teacher, _ = load_model(tmp_path / "model")
    cloned = [teacher.clone(interpolation=name).preprocess.interpolation for name in ("", "bilinear")]
    assert [kept.interpolation, told.interpolation, *cloned] == ["lanczos", "bicubic", "lanczos", "bilinear"]
    assert teacher.preprocess.interpolation == "lanczos"


def test_a_run_trains_by_the_filters_of_its_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "signs", classes=8, size=48)
    teacher = build_network(small(interpolation="bicubic"))
    save_model(teacher, tmp_path / "teacher", resolution=SIZE)
    told: list[object] = []

    def noted(*given: Any, **options: Any) -> Iterator[Batch]:
        told.append(options["filters"])
        return training_batches(*given, **options)

    monkeypatch.setattr(assembly, "training_batches", noted)
    student = {f"student.{key}": value for key, value in vars(small(interpolation="lanczos")).items()}
    method = {"method": PRESETS["raml_ts_reg"], "method.batches.size": 4, "teacher.checkpoint": str(tmp_path / "teacher")}
    run = {"data.root": str(tmp_path / "signs"), "data.validation": 0.0, "optim.epochs": 1}
    _ = list(fit(override(Config(), student | method | run), device="cpu"))
    _ = list(
        fit(override(Config(), student | run | {"method.views.augmentation": "none", "method.batches.size": 4}), device="cpu")
    )
    assert told == [("lanczos", "bicubic"), ("lanczos", "lanczos")]


def test_rows_from_before_an_option_keep_their_names() -> None:
    plain = {part: value for part, value in to_dict(Config()).items() if part != "seed"}
    for part, left_out in (
        UNNAMED | {"teacher": ("features",), "student": ("interpolation", "head_init"), "optim": ("compile",)}
    ).items():
        plain[part] = {key: value for key, value in plain[part].items() if key not in left_out}
    assert config_hash(Config()) == hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
    assert config_hash(override(Config(), {"student.interpolation": "lanczos"})) != config_hash(Config())
    with pytest.raises(ConfigError, match="did you mean 'lanczos'"):
        override(Config(), {"student.interpolation": "lanczo"})


def test_raml_is_tested_by_lanczos_and_chosen_on_the_second_half_of_its_training_classes() -> None:
    """As its code does; the other fine-grained tables are tested by the bilinear filter."""
    filters: dict[str, set[object]] = {}
    for made in recipes().values():
        if made.config is not None and made.config.data.name != "sfm120k":
            filters.setdefault(made.key.split("/")[0], set()).add(made.config.student.interpolation)
        if made.config is not None and made.key.startswith("raml/"):
            held = made.config.data
            assert (held.validation, held.validation_order, made.final.data.validation) == (0.5, "sorted", 0)
    assert filters == {"yu2019": {""}, "s2sd": {""}, "raml": {"lanczos"}, "obdsd": {""}}
