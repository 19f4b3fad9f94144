"""Gradient caching on real networks: exact, smaller, the same random draws twice, and refused where it cannot be exact."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmkd.distill import MetricLearning, Yu
from dmkd.distill.teachers import NoTeacher
from dmkd.errors import ConfigError
from dmkd.grad_cache import GradientCache, WholeBatch
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, Features, build_network
from dmkd.optim import Precision
from dmkd.trainer import fit
from tests.every_method import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = MetricLearning()
FP32 = Precision("fp32", torch.device("cpu"))
NETWORK = Network(backbone="timm/test_resnet", weights="none", dim=8, resolution=32)


@pytest.fixture(scope="module")
def network() -> EmbeddingNet:
    torch.manual_seed(0)
    return build_network(NETWORK)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(11, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def spread(features: Features) -> Tensor:
    """A loss that ties every image to every other."""
    return (features.embedding @ features.embedding.T).exp().sum()


def gradients(passes: WholeBatch, images: Tensor, network: nn.Module, loss: Callable[[Features], Tensor]) -> dict[str, Tensor]:
    network.zero_grad()
    passes.backward(loss(passes.student(images)))
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}


LOSSES: dict[str, Callable[[Features], Tensor]] = {
    "embedding": spread,
    "pooled": lambda features: (features.pooled @ features.pooled.T).square().mean(),
    "feature_map": lambda features: features.feature_map.mean((2, 3)).std(0).sum() + spread(features),
    "stages": lambda features: sum((x.std(0).sum() for x in features.stages.values()), start=spread(features)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_a_loss_on_any_feature_has_the_whole_batchs_gradient(name: str, size: int, network: EmbeddingNet, images: Tensor) -> None:
    staged = Yu(attention=1.0, layers=("layer1", "layer3"))
    whole = gradients(WholeBatch(network, staged), images, network, LOSSES[name])
    cached = GradientCache(network, staged, size, FP32)
    for _ in range(2):  # the second time the feature map is kept from the first pass
        found = gradients(cached, images, network, LOSSES[name])
        assert found.keys() == whole.keys()
        for key, gradient in whole.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


def test_pictures_of_different_sizes_in_chunks(network: EmbeddingNet, images: Tensor) -> None:
    sizes = torch.tensor([[32, 32], [32, 24], [24, 32]]).repeat(4, 1)[: len(images)]

    class Cut(WholeBatch):
        def student(self, images: Tensor, _sizes: Tensor | None = None) -> Features:
            return super().student(images, sizes)

    class CutInChunks(GradientCache):
        def student(self, images: Tensor, _sizes: Tensor | None = None) -> Features:
            return super().student(images, sizes)

    whole = gradients(Cut(network, PLAIN), images, network, spread)
    cached = CutInChunks(network, PLAIN, 4, FP32)
    found = gradients(cached, images, network, spread)
    assert found.keys() == whole.keys()
    for key, gradient in whole.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())
    with pytest.raises(ConfigError, match=r"data\.transform"):
        _ = cached.student(images).feature_map


class Counted:
    """A tensor that autograd saved, and how many bytes of such, weights apart, are alive."""

    alive = peak = 0
    weights: set[int] = set()

    def __init__(self, tensor: Tensor) -> None:
        own = tensor.untyped_storage().data_ptr() not in Counted.weights
        self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size() * own
        Counted.alive += self.bytes
        Counted.peak = max(Counted.peak, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= self.bytes


def peak_saved(passes: WholeBatch, images: Tensor) -> int:
    gc.collect()
    Counted.alive = Counted.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Counted, lambda counted: counted.tensor):
        passes.backward(spread(passes.student(images)))
    gc.collect()
    assert Counted.alive == 0
    return Counted.peak


def test_activations_of_one_chunk_alone_are_alive(network: EmbeddingNet, images: Tensor) -> None:
    Counted.weights = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    batch = images.repeat(4, 1, 1, 1)[:40]
    whole, one = peak_saved(WholeBatch(network, PLAIN), batch), peak_saved(WholeBatch(network, PLAIN), batch[:4])
    cached = peak_saved(GradientCache(network, PLAIN, 4, FP32), batch)
    assert whole > 8 * one
    assert cached < 1.2 * one


def test_a_feature_map_that_nobody_reads_is_not_joined(network: EmbeddingNet, images: Tensor) -> None:
    features = GradientCache(network, PLAIN, 4, FP32).student(images)
    assert "feature_map" not in vars(features)
    with torch.no_grad():
        torch.testing.assert_close(features.feature_map, network(images).feature_map, rtol=1e-4, atol=1e-5)


class Dropping(nn.Module):
    """Random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, images: Tensor, stages: tuple[str, ...] = ()) -> Features:
        hidden = nn.functional.dropout(self.first(images.flatten(1)).relu(), 0.5, training=self.training)
        return Features(self.second(hidden), hidden, hidden[:, :, None, None])


@pytest.mark.parametrize("name", ["embedding", "feature_map"])
def test_dropout_draws_the_same_in_both_passes(name: str) -> None:
    """Against one graph over the chunks, joined; what the loss draws in between must neither repeat nor disturb these draws."""
    torch.manual_seed(2)
    network, images = Dropping(), torch.rand(10, 3, 2, 2)

    def noisy(features: Features) -> Tensor:
        return LOSSES[name](features) * torch.rand(())

    class Joined(WholeBatch):
        def student(self, images: Tensor) -> Features:
            parts = [network(some) for some in images.split(4)]
            return Features(
                *(torch.cat([getattr(part, key) for part in parts]) for key in ("embedding", "pooled", "feature_map"))
            )

    results = []
    for passes in (Joined(network, PLAIN), GradientCache(network, PLAIN, 4, FP32)):  # type: ignore[arg-type]
        torch.manual_seed(3)
        results.append((gradients(passes, images, network, noisy), torch.rand(2)))
    (wanted, after), (found, also_after) = results
    torch.testing.assert_close(found, wanted)
    assert torch.equal(after, also_after)


class Taught(NoTeacher):
    """Gives features where it is shown pictures."""

    def features(self, student_images: Tensor, teacher_images: Tensor | None, stages: tuple[str, ...]) -> Features | None:
        if teacher_images is None:
            return None
        return Features(teacher_images.mean((2, 3)), teacher_images.amax((2, 3)), teacher_images, {"a": 2 * teacher_images})


def test_the_teacher_is_joined_without_graph(network: EmbeddingNet, images: Tensor) -> None:
    cached = GradientCache(network, PLAIN, 4, FP32)
    assert cached.teacher(Taught(), images, None) is None
    features = cached.teacher(Taught(), images, images)
    assert features is not None
    assert torch.equal(features.embedding, images.mean((2, 3)))
    assert torch.equal(features.feature_map, images)
    assert torch.equal(features.stages["a"], 2 * images)
    assert not features.embedding.requires_grad


def test_the_pictures_of_a_step_do_not_outlive_it(network: EmbeddingNet) -> None:
    """Those of 4000 at 224 pixels are 2.4 GB of a GPU; nor do they wait for the garbage collector."""
    cached, batch = GradientCache(network, PLAIN, 4, FP32), torch.rand(8, 3, 32, 32)
    alive = weakref.ref(batch)
    taught = cached.teacher(Taught(), batch, batch)
    assert taught is not None
    gc.collect()
    gc.disable()
    try:
        cached.backward(spread(cached.student(batch)) + taught.embedding.sum())
        del taught, batch
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_and_a_scaled_loss(precision: str, network: EmbeddingNet, images: Tensor) -> None:
    half, scale = Precision(precision, torch.device("cpu")), 1024.0
    found = []
    for passes, factor in ((WholeBatch(network, PLAIN), 1.0), (GradientCache(network, PLAIN, 4, half), scale)):
        network.zero_grad()
        with half.autocast():
            loss = spread(passes.student(images)) * factor
        passes.backward(loss)
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert found[1].norm().item() == pytest.approx(scale * found[0].norm().item(), rel=0.02)
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.995


SGD: dict[str, Any] = {"optim.optimizer": "sgd", "optim.lr": 0.02, "loss.name": "margin", "optim.accumulate": 2}


@pytest.mark.parametrize("name", ["metric_learning", "msdfa", "yu_relative_attention", "aml_contrastive", "raml", "obd_sd"])
def test_a_run_in_chunks_follows_the_run_without(name: str, root: Path, teacher: Path) -> None:
    """Two epochs by the trainer, batches accumulated, draws of the miners included."""
    plain, chunked = (
        list(fit(tiny(name, root, teacher, SGD | {"optim.chunk": chunk, "method.batches.iterations": 3})))[-1] for chunk in (0, 3)
    )
    start = next(fit(tiny(name, root, teacher, SGD | {"optim.epochs": 0}))).model.state_dict()
    for key, loss in plain.metrics.items():
        if key.startswith("train/"):
            assert chunked.metrics[key] == pytest.approx(loss, rel=1e-3, abs=1e-4), key
    moved, also = (
        torch.cat([(weights[key] - start[key]).flatten() for key in start if start[key].is_floating_point()])
        for weights in (plain.model.state_dict(), chunked.model.state_dict())
    )
    assert moved.norm() > 1e-3
    assert (moved - also).norm() < 1e-2 * moved.norm()


def test_moving_batch_norm_is_refused(root: Path) -> None:
    moving = {"student.frozen_batchnorm": False, "optim.chunk": 4}
    with pytest.raises(
        ConfigError, match=r"optim.chunk=4: \d+ batch-norm layers.*set student.frozen_batchnorm=true, or optim.chunk=0"
    ):
        next(fit(tiny("metric_learning", root, changes=moving)))
