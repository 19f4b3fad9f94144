"""Compiled passes against the network as it is: the same gradient, the same random draws, a fall-back that says why."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmkd.config import Config, config_hash
from dmkd.distill import MetricLearning, Yu
from dmkd.grad_cache import GradientCache, WholeBatch
from dmkd.models import Network
from dmkd.models.compiled import FOLDER, Compiled
from dmkd.models.embedder import EmbeddingNet, build_network
from dmkd.optim import Precision
from dmkd.space import override
from dmkd.trainer import fit
from tests.every_method import tiny
from tests.test_resume import check

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN, FP32 = MetricLearning(), Precision("fp32", torch.device("cpu"))


@pytest.fixture(autouse=True)
def _own_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(FOLDER, raising=False)
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of torch.compile but the kernels, which take a minute."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **_: whole(run, dynamic=False, backend="aot_eager"))


@functools.cache
def network(backbone: str = "timm/test_resnet", drop: float = 0.0) -> EmbeddingNet:
    torch.manual_seed(0)
    net = build_network(Network(backbone=backbone, weights="none", dim=8, resolution=32))
    if drop:
        first = net.backbone.body.conv1
        net.backbone.body.conv1 = nn.Sequential(first, nn.Dropout(drop))  # type: ignore[arg-type]
    return net.train()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gradient(passes: WholeBatch, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings, and the gradient of a loss that ties every image to every other."""
    net.zero_grad()
    torch.manual_seed(3)
    with FP32.autocast():
        embedding = passes.student(x).embedding
    passes.backward((embedding @ embedding.T).exp().sum())
    return embedding.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def assert_same(passes: WholeBatch, net: EmbeddingNet, x: Tensor) -> None:
    (found, slope), (wanted, theirs) = (gradient(run, net, x) for run in (passes, WholeBatch(net, PLAIN)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (slope - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_compiled_pass_is_the_networks_and_draws_as_it_does(drop: float) -> None:
    net = network(drop=drop)
    for count in (6, 4):
        assert_same(WholeBatch(net, PLAIN, compiled=True), net, images(count))
    assert_same(GradientCache(net, PLAIN, 3, FP32, compiled=True), net, images())


@pytest.mark.usefixtures("traced")
def test_it_sees_what_the_network_has_become_since() -> None:
    net = network()
    passes = WholeBatch(net, PLAIN, compiled=True)
    before, _ = gradient(passes, net, images())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(gradient(passes, net, images())[0], before, atol=1e-3)
    assert_same(passes, net, images())
    network.cache_clear()


def test_stages_come_from_the_network_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: lambda _: pytest.fail("hooks are not seen by a compiled pass"))
    staged = Yu(attention=1.0, layers=("layer1", "layer3"))
    found = WholeBatch(network(), staged, compiled=True).student(images())
    assert list(found.stages) == ["layer1", "layer3"]


def test_what_cannot_be_compiled_is_told_once_and_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.compile

    def broken(_module: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda run, **_: whole(run, backend=broken))
    net = network()
    passes = WholeBatch(net, PLAIN, compiled=True)
    with pytest.warns(UserWarning, match=r"timm/test_resnet runs as it is, not compiled \(BackendCompilerFailed.*no compiler"):
        assert_same(passes, net, images())
    assert_same(passes, net, images())  # and no second warning


def test_memory_that_is_short_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda run, **_: short)
    passes = Compiled(network())
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            passes(images())


def test_kernels_lie_in_a_folder_of_ones_own_unless_torch_was_told_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for before in (None, "/tmp/torchinductor_somebody"):
        monkeypatch.delenv(FOLDER, raising=False)
        if before:
            monkeypatch.setenv(FOLDER, before)
        monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
        Compiled(network())
        place = Path(os.environ[FOLDER])
        assert place.is_relative_to(tmp_path / "cache" / "compiled")
        assert oct(place.stat().st_mode)[-3:] == "700"
    monkeypatch.delenv(FOLDER)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DMKD_CACHE", str(tmp_path / "file"))
    Compiled(network())  # no folder can be made there: torch's own has to do
    assert not os.environ.get(FOLDER, "").startswith(str(tmp_path))
    monkeypatch.setenv(FOLDER, str(tmp_path / "told"))
    Compiled(network())
    assert os.environ[FOLDER] == str(tmp_path / "told")


def test_a_compiled_row_has_a_name_of_its_own() -> None:
    assert config_hash(Config()) != config_hash(override(Config(), {"optim.compile": True}))


@pytest.mark.usefixtures("traced")
def test_a_run_is_compiled_where_its_configuration_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[EmbeddingNet] = []
    monkeypatch.setattr("dmkd.grad_cache.Compiled", lambda net: made.append(net) or Compiled(net))  # type: ignore[func-returns-value]
    plain, compiled = (next(fit(tiny("metric_learning", root, changes={"optim.compile": chosen}))) for chosen in (False, True))
    assert made == [compiled.model]
    assert compiled.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_efficientnet", "timm/test_vit"])
def test_kernels_give_the_networks_gradient(backbone: str) -> None:
    net = network(backbone)
    assert_same(WholeBatch(net, PLAIN, compiled=True), net, images())


@pytest.mark.slow
def test_kernels_draw_as_the_network_does_in_chunks_too() -> None:
    net = network(drop=0.5)
    assert_same(GradientCache(net, PLAIN, 3, FP32, compiled=True), net, images())


@pytest.mark.slow
def test_a_resume_of_a_compiled_run_changes_no_bit(root: Path, tmp_path: Path) -> None:
    check(tiny("psd", root, changes={"optim.compile": True}), tmp_path / "state")
