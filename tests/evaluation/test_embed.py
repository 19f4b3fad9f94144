"""Embedding outside training: values, order, and the modes that are put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmkd.errors import DataError
from dmkd.evaluation.embed import embed
from dmkd.evaluation.multiscale import MultiScale
from dmkd.models import Network
from dmkd.models.embedder import Features, assemble
from tests.waits import pretended_gpu


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.frozen, self.drop, self.head = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(3, 4)
        self.frozen.eval()

    def forward(self, images):
        x = self.drop(self.frozen(self.norm(images)).mean(dim=(2, 3)))
        return Features(embedding=self.head(x).double(), pooled=x, feature_map=images)


class Broken(Net):
    def forward(self, images):
        raise RuntimeError("out of memory")


def modes(net):
    return {name: module.training for name, module in net.named_modules()}


def test_rows_come_in_order_without_dropout_and_statistics_stay():
    torch.manual_seed(0)
    net, images = Net(), torch.rand(7, 3, 5, 5)
    before, statistics = modes(net), net.norm.running_mean.clone()
    rows = embed(net, iter(images.split(3)), "cpu")
    assert modes(net) == before
    assert (before["norm"], before["frozen"]) == (True, False)
    assert torch.equal(net.norm.running_mean, statistics)
    wanted = net.head((images / (1 + 1e-5)).mean(dim=(2, 3)))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, wanted.detach(), atol=1e-6, rtol=0)


def test_bytes_are_images_in_the_unit_range():
    torch.manual_seed(0)
    net, pixels = Net(), torch.randint(256, (5, 4, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    rows = embed(net, pixels.split(2), "cpu")
    assert torch.equal(rows, embed(net, (pixels.float() / 255).split(2), "cpu"))


def test_the_rows_may_enter_a_graph():
    rows = embed(Net(), [torch.rand(2, 3, 4, 4)], torch.device("cpu"))
    weight = torch.ones(4, requires_grad=True)
    (rows * weight).sum().backward()
    torch.testing.assert_close(weight.grad, rows.sum(dim=0))
    assert not rows.requires_grad


def test_modes_come_back_after_an_error_and_no_image_is_refused():
    net = Broken()
    before = modes(net)
    with pytest.raises(RuntimeError, match="out of memory"):
        embed(net, [torch.rand(1, 3, 2, 2)], "cpu")
    assert modes(net) == before
    with pytest.raises(DataError, match="no image"):
        embed(Net(), [], "cpu")


@pytest.mark.parametrize("scales", [(), (1.0, 0.5)])
def test_rows_of_a_gpu_come_to_the_host(scales):
    """On a pretended one, whose tensors have no values: one that lies elsewhere is an error."""
    network = assemble(Network(backbone="timm/test_efficientnet", dim=8, resolution=32, pooling="gem", projection="conv"))
    whole = MultiScale(network, scales)
    with pretended_gpu() as gpu:
        images = torch.rand(3, 3, 32, 32)
        rows = embed(whole.to(gpu), [list(images)], gpu) if scales else embed(network.to(gpu), [images], gpu)
    assert rows.device.type == "cpu"
    assert rows.shape == (3, 8)
