"""Who teaches: frozen, in evaluation mode, without gradients; and the student of an epoch ago."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dmkd.distill import METHODS
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.teachers import TEACHERS, NoTeacher
from dmkd.grad_cache import GradientCache, WholeBatch
from dmkd.models import Network, Teacher
from dmkd.models.embedder import assemble
from dmkd.optim import Precision


def student():
    torch.manual_seed(0)
    return assemble(Network("timm/test_efficientnet", weights="none", dim=4, resolution=32, frozen_batchnorm=False))


def test_the_previous_epoch_teaches_as_it_stood_when_the_epoch_began():
    net, images = student(), torch.rand(4, 3, 32, 32)
    teacher = TEACHERS["previous_epoch"](Teacher(), torch.device("cpu"))
    assert teacher.features(images, None, ()) is None
    teacher.refresh(net)
    net.eval()
    with torch.no_grad():
        began = net(images).embedding.clone()
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    for _ in range(2):
        net(images).embedding[:, 0].sum().backward()
        optimizer.step()
    found = teacher.features(images, None, ())
    torch.testing.assert_close(found.embedding, began, rtol=0, atol=1e-6)  # folded batch-norms round otherwise
    assert not found.embedding.requires_grad
    assert not teacher.network.training, "in evaluation mode, also where batch-norm is not frozen"
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    teacher.refresh(net)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(images, None, ()).embedding, net(images).embedding, rtol=0, atol=1e-6)
    assert F.mse_loss(teacher.features(images, None, ()).embedding, began) > 1e-6


def test_refreshing_from_the_starting_student_of_an_epoch_is_what_a_resume_does():
    """A resumed run has no teacher yet and makes it of the restored student: the same weights, buffers included."""
    net = student()
    net.train()(torch.rand(8, 3, 32, 32))
    kept, fresh = (TEACHERS["previous_epoch"](Teacher(), torch.device("cpu")) for _ in range(2))
    kept.refresh(student())
    kept.refresh(net)
    fresh.refresh(net)
    theirs = fresh.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in kept.network.state_dict().items())


def test_without_a_teacher_there_are_no_features():
    teacher = TEACHERS["none"](Teacher(), torch.device("cpu"))
    assert isinstance(teacher, NoTeacher)
    assert teacher.features(torch.rand(1, 3, 8, 8), None, ()) is None


STAGE = ("blocks.1",)


class Staged(ObdSd):
    """A method that asks its teacher for a stage: maps show the precision that the embedding is kept from."""

    @property
    def stages(self):
        return STAGE


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("around", ["fp32", "bf16"])
@pytest.mark.parametrize(("own", "dtype"), [("student", None), ("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_teachers_precision_is_its_own(own: str, dtype: torch.dtype | None, around: str, chunk: int):
    net, images = student().eval(), torch.rand(4, 3, 32, 32)
    net.network = Network("timm/test_efficientnet", frozen_batchnorm=True)
    teacher = TEACHERS["previous_epoch"](Teacher(precision=own), torch.device("cpu"))
    teacher.refresh(net)
    precision = Precision(around, torch.device("cpu"))
    passes = GradientCache(net, Staged(), chunk, precision) if chunk else WholeBatch(net, Staged())
    with precision.autocast():
        found = passes.teacher(teacher, images, None)
    with torch.no_grad():
        exact = net.eval()(images, stages=STAGE)
    wanted = dtype or {"fp32": torch.float32, "bf16": torch.bfloat16}[around]
    assert found.stages["blocks.1"].dtype == wanted
    assert found.embedding.dtype == torch.float32
    apart = (found.embedding - exact.embedding).abs().max()
    assert apart < 1e-6 if wanted == torch.float32 else 1e-5 < apart < 0.02


def test_a_method_that_needs_an_exact_teacher_has_one():
    net, images = student().eval(), torch.rand(4, 3, 32, 32)
    teacher = TEACHERS["previous_epoch"](Teacher(precision="bf16"), torch.device("cpu"))
    teacher.refresh(net)
    with Precision("bf16", torch.device("cpu")).autocast():
        found = WholeBatch(net, METHODS["darkrank"]()).teacher(teacher, images, None)
    with torch.no_grad():
        torch.testing.assert_close(found.embedding, net.eval()(images).embedding, rtol=0, atol=1e-6)
