"""Every row of every table is a configuration that builds, or says why it is none; constants as the papers print them."""

from __future__ import annotations

from collections import Counter
from math import ceil

import pytest
import torch

from dmkd.config import from_yaml, to_yaml
from dmkd.data.samplers import epoch_length
from dmkd.distill import PRESETS
from dmkd.distill.base import Shapes
from dmkd.models.backbones import check_name
from dmkd.space import flatten, override, search_space
from sweeps.cars_s2sd import BASE
from sweeps.papers import Recipe, recipe, recipes
from tracking.errors import TrackingError
from tracking.published import configurations, load_published

TRAINED = [made for made in recipes().values() if made.config is not None]
CONFIGS = {to_yaml(made.config): made for made in TRAINED if made.config is not None}
"""One recipe of each distinct configuration: many rows repeat one, and the landmark rows differ in the test set alone."""


def test_every_printed_number_has_a_configuration_or_a_stated_reason() -> None:
    made = recipes()
    assert set(made) == set(load_published()["key"])
    for row in made.values():
        assert (row.config is None) == bool(row.reason), row.key
        assert row.config is None or row.selection, row.key
    kinds = Counter("quoted" if "quoted" in row.reason else row.reason.split(":")[0] for row in made.values() if row.reason)
    assert kinds == {"quoted": 68, "a claim in the prose": 25, "a cost, not a training": 15}


def test_only_what_no_paper_trained_is_refused() -> None:
    about = {row["key"]: row for row in configurations().iter_rows(named=True)}
    for key, made in recipes().items():
        row = about[key]
        refused = row["table"] == "text" or row["dataset"] == "flops" or "literature as quoted" in row["setting"]
        refused = refused or row["method"] == "plfp_pruning"
        assert bool(made.reason) == refused, key


@pytest.mark.parametrize("made", CONFIGS.values(), ids=lambda made: made.key)
def test_a_configuration_is_valid_and_its_networks_and_objective_exist(made: Recipe) -> None:
    config = made.config
    assert config is not None
    assert from_yaml(to_yaml(config)) == config
    assert search_space(config)
    check_name(config.student.backbone)
    dim = config.student.dim or 512
    stages = dict.fromkeys((*config.method.stages, *config.method.teacher_stages), 64)
    shapes = Shapes(dim, 512, stages, Shapes(dim, 512, stages), classes=10, images=100)
    with torch.device("meta"):
        config.method.build(shapes, lambda size: config.loss.build(size, 10))
    assert (config.method.teacher == "pretrained") == bool(made.teacher)


def test_the_networks_that_a_row_needs_are_rows_that_can_be_trained() -> None:
    for made in TRAINED:
        for key in filter(None, (made.teacher, made.start)):
            needed = recipe(key)
            assert needed.config is not None, made.key
            assert not needed.teacher, made.key
            assert made.config.data.name == needed.config.data.name, made.key
            if made.teacher == key and made.config.teacher.resolution:
                assert needed.config.student.resolution == made.config.teacher.resolution, made.key


SPOT: dict[str, dict[str, object]] = {
    "yu2019/T1/cub200/yu_rel/triplet/512": {
        "student.backbone": "resnet18",
        "student.dim": 512,
        "student.head_init": "kaiming",
        "student.frozen_batchnorm": False,
        "method.name": "yu",
        "method.relative": 0.3,
        "method.absolute": 0.0,
        "method.batches.size": 32,
        "method.batches.images_per_class": 8,
        "loss.name": "triplet",
        "loss.sampler": "batch_hard",
        "loss.margin": 0.0,
        "optim.optimizer": "adam",
        "optim.lr": 1e-5,
        "optim.weight_decay": 2e-4,
        "optim.epochs": 2000,
        "data.view_short_side": 256,
        "data.validation": 0.2,
    },
    "yu2019/T1/cars196/yu_abs/triplet/512": {"method.absolute": 1.5, "method.relative": 0.0, "optim.epochs": 3000},
    "yu2019/T2/sop/yu_rel/triplet/512": {"method.relative": 1.0, "optim.epochs": 50, "evaluation.k": (1, 10, 100, 1000)},
    "yu2019/T3/cub200/yu_rel/none/512/unlabeled": {"data.labelled": 0.5, "data.use": "unlabelled", "method.metric": 0.0},
    "yu2019/T3/cub200/yu_abs/triplet/512/labeled+unlabeled": {"data.labelled": 0.5, "data.use": "all", "method.absolute": 1.0},
    "yu2019/T6/cars196/yu_rel/triplet/512/low-resolution": {"data.degradation": "low_resolution", "data.degraded_size": 50},
    "yu2019/T6/cub200/yu_abs/triplet/512/unlocalized": {"data.use_boxes": "teacher", "data.view_short_side": 0},
    "s2sd/T1/sop/msd/ms/128": {"method.weight": 5.0, "method.features": False, "method.dims": (512, 1024, 1536, 2048)},
    "s2sd/T1/cub200/dsd/margin/128": {"method.weight": 50.0, "method.dims": (2048,), "loss.name": "margin", "loss.beta": 1.2},
    "s2sd/T1/cub200/none/r_margin/128": {"loss.beta": 0.6, "loss.sampler": "rho", "loss.switch": 0.4},
    "s2sd/T2/cars196/msdfa/ms/512/inception_bn": {
        "student.frozen_batchnorm": False,
        "method.pool_aggregation": True,
        "method.feature_delay": 1000,
    },
    "aml/T2/rparis6k/aml_triplet/triplet/2048/efficientnet_b3": {
        "method.objective": "triplet",
        "method.margin": 0.1,
        "optim.optimizer": "sgd",
        "optim.lr": 1e-8,
        "optim.schedule": "exponential",
        "optim.gamma": 0.99,
        "optim.weight_decay": 1e-6,
        "optim.epochs": 300,
        "student.resolution": 362,
        "student.pooling": "gem",
        "student.dim": 2048,
        "student.projection": "conv",
    },
    "aml/T1/roxford5k/aml_contr_plus/contrastive/512": {
        "data.name": "sfm120k",
        "data.transform": "max_side",
        "evaluation.landmarks": ("roxford5k", "rparis6k"),
        "evaluation.whitening": "pairs",
        "evaluation.max_side": 1024,
        "method.own": True,
        "method.positives": True,
        "method.negatives": True,
        "method.negative_count": 5,
        "method.margin": 0.7,
        "method.batches.size": 10,
        "method.batches.iterations": 200,
        "optim.lr": 1e-3,
    },
    "aml/T5/roxford5k/aml_contr_self_pos/contrastive/512/mobilenetv2": {"method.own": True, "method.negatives": False},
    "aml/T3/paris6k/regression/none/2048": {"evaluation.landmarks": ("oxford5k", "paris6k"), "evaluation.whitening": "none"},
    "aml/T2/roxford5k/rkd_da/none/512/mobilenetv2": {"method.objective": "rkd", "optim.lr": 1e-2},
    "aml/T2/roxford5k/darkrank/none/2048/efficientnet_b3": {"method.objective": "darkrank", "optim.lr": 1e-7},
    "aml/T2/roxford5k/none/contrastive/512/mobilenetv2": {"method.name": "symmetric", "optim.lr": 1e-5, "optim.epochs": 100},
    "raml/T2/cub200/raml/none/512/224": {
        "student.backbone": "resnet50",
        "student.resolution": 224,
        "student.checkpoint": "teacher",
        "teacher.resolution": 448,
        "method.rel_ts": 0.7718,
        "method.rel_ss": 0.6684,
        "method.views.per_image": 8,
        "method.views.mixup": 0.2,
        "optim.optimizer": "adamw",
        "optim.lr": 1.4025e-4,
        "optim.weight_decay": 1e-6,
        "optim.schedule": "one_cycle",
        "optim.accumulate": 25,
        "optim.epochs": 200,
        "evaluation.average_precision": "trapezoidal",
    },
    "raml/T2/sop/raml/none/512/158": {"method.rel_ts": 0.7482, "method.rel_ss": 0.6778, "optim.lr": 1.7579e-4},
    "raml/T3/cub200/raml_abs/none/512/coupled=0+geom=1+mixup=0": {
        "method.views.coupled": False,
        "method.views.mixup": 0.0,
        "method.rel_ts": 0.0,
    },
    "raml/T4/cub200/raml_rel_ss/none/512/init=teacher@448": {"method.abs": 0.0, "method.rel_ts": 0.0, "method.rel_ss": 0.6684},
    "raml/T1/sop/teacher/triplet/512/634": {
        "student.resolution": 634,
        "student.pooling": "gem",
        "method.batches.images_per_class": 4,
    },
    "obdsd/T1/cub200/obd_sd/margin/128": {
        "method.name": "obd_sd",
        "method.weight": 1000.0,
        "method.diffusion.omega": 0.3,
        "method.dynamic": True,
        "optim.epochs": 150,
        "optim.lr": 1e-5,
        "optim.weight_decay": 4e-4,
        "method.batches.size": 112,
    },
    "obdsd/T1/cars196/obd_sd/ms/128": {"method.weight": 75.0, "method.diffusion.omega": 0.99, "method.temperature": 1.0},
    "obdsd/T1/sop/obd_sd/ms/128": {"method.diffusion.temperature": 0.005, "optim.epochs": 100, "method.diffusion.omega": 0.5},
    "obdsd/T2/cars196/obd_sd/ms/512/resnet50/avg+max": {
        "method.weight": 200.0,
        "student.pooling": "average+max",
        "optim.epochs": 300,
        "optim.milestones": (200, 250),
        "optim.gamma": 0.3,
    },
    "obdsd/T3/cub200/psd_static/ms/128": {"method.dynamic": False, "method.diffusion.enabled": False},
    "obdsd/T4/cars196/obd_sd/margin/128/sampling=softhard": {"loss.sampler": "softhard", "loss.beta": 1.2},
    "obdsd/T6/cars196/bar+obdp/ms/128": {"method.name": "kl", "method.weight": 50.0, "method.diffusion.omega": 0.99},
    "obdsd/T6/cub200/msd+obdp/ms/128": {"method.name": "s2sd", "method.diffusion.omega": 0.3, "method.weight": 50.0},
    "obdsd/T7/cub200/obd_global/ms/128": {"method.scope": "global", "method.neighbours": 50},
    "obdsd/T9/cub200/none/ms/128/noise=0.3": {"data.label_noise": 0.3, "method.name": "metric_learning"},
}
"""Typed from the papers and their released commands."""


@pytest.mark.parametrize("key", SPOT)
def test_constants_are_those_that_the_papers_print(key: str) -> None:
    config = recipe(key).config
    flat = flatten(config)
    assert {name: flat[name] for name in SPOT[key]} == SPOT[key]
    assert flat["seed"] == 0


def test_trial_0_of_a_search_around_a_row_is_the_row() -> None:
    """Every searched key has a value in the row's own configuration, and setting it changes nothing."""
    for made in CONFIGS.values():
        config = made.config
        flat = flatten(config)
        own = {key: flat[key] for key in search_space(config)}
        assert override(config, own) == config


def test_the_sweep_script_on_cars_starts_from_the_row_it_names() -> None:
    made = recipe("s2sd/T1/cars196/msdf/ms/128")
    assert made.config == BASE
    assert made.final == override(BASE, {"data.validation": 0.0, "evaluation.test": True})


def test_a_row_of_unaugmented_pictures_has_its_own_start() -> None:
    assert recipe("raml/T4/cub200/raml/none/512/init=teacher@224").start == "raml/T2/cub200/teacher/triplet/512/224"
    imagenet = recipe("raml/T4/cub200/raml/none/512/init=imagenet")
    assert (imagenet.start, imagenet.config and imagenet.config.student.checkpoint) == ("", "")


@pytest.mark.parametrize(("dataset", "train", "half"), [("cub200", 5864, 2932), ("cars196", 8054, 4027), ("sop", 59551, 29775)])
def test_an_epoch_of_raml_is_at_most_8000_pictures_and_at_most_one_pass(dataset: str, train: int, half: int) -> None:
    made = recipe(f"raml/T2/{dataset}/raml/none/512/224")
    assert made.config is not None
    for config, pictures in ((made.final, train), (made.config, half)):
        assert epoch_length(config.method.batches, pictures, 2) == ceil(min(8000, pictures) / 8)


def test_ramls_presets_of_table_3_are_its_rows() -> None:
    """But for the two lambdas, of which a preset has the method's defaults where its terms are on."""
    rows = {
        "raml_ts_reg": "raml_abs/none/512/coupled=0+geom=0+mixup=0",
        "raml_uncoupled": "raml_abs/none/512/coupled=0+geom=1+mixup=0",
        "raml_no_mixup": "raml_abs/none/512/coupled=1+geom=1+mixup=0",
        "raml_abs": "raml_abs/none/512/coupled=1+geom=1+mixup=1",
        "raml_rel_ts": "raml_rel_ts/none/512/coupled=1+geom=1+mixup=1",
        "raml_rel_ss": "raml_rel_ss/none/512/coupled=1+geom=1+mixup=1",
    }
    for name, key in rows.items():
        config = recipe(f"raml/T3/cub200/{key}").config
        assert config is not None
        found, wanted = flatten(PRESETS[name]), flatten(config.method)
        weights = ("rel_ts", "rel_ss")
        assert [bool(found.pop(weight)) for weight in weights] == [bool(wanted.pop(weight)) for weight in weights], name
        assert found == wanted, name


OPEN = {
    "obdsd/T3/cub200/psd_static/ms/128": "chosen by ablation",
    "obdsd/T6/cars196/bar+obdp/ms/128": "names no omega",
    "obdsd/T6/cub200/msd+obdp/ms/128": "names no omega",
    "yu2019/T3/cub200/yu_rel/triplet/512/labeled+unlabeled": "how a batch mixes",
    "aml/T1/roxford5k/regression/none/512": "at which size",
}


@pytest.mark.parametrize("key", OPEN)
def test_what_a_paper_leaves_open_is_said(key: str) -> None:
    assert any(OPEN[key] in note for note in recipe(key).notes)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(TrackingError, match="did you mean 's2sd/T1/cars196/msdf/ms/128'"):
        recipe("s2sd/T1/cars196/msdf/ms/129")
    with pytest.raises(ValueError, match="a claim in the prose"):
        _ = recipe("obdsd/text/cub200/psd/ms/128").final
