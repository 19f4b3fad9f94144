"""How a batch meets the networks: all of it at once, or in chunks whose joint gradient is exact (gradient caching).

Gradient caching (Gao et al. 2021): the batch is embedded in chunks without graph, the loss is computed on all of it and
differentiated with respect to what the network gave, then each chunk is embedded again with its graph, and the cached gradient is
propagated through it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dmkd.distill.base import Method
from dmkd.distill.teachers import NoTeacher
from dmkd.errors import ConfigError
from dmkd.models.compiled import Compiled
from dmkd.models.embedder import EmbeddingNet, Features
from dmkd.models.sized import cut, forward_sized
from dmkd.optim import Precision, forward_precision


class WholeBatch:
    """One forward pass of the whole batch, with its graph. `student` and `teacher` are called under autocast."""

    def __init__(self, network: EmbeddingNet, method: Method, *, compiled: bool = False) -> None:
        self._network, self._method = network, method
        self._forward: Callable[..., Features] = Compiled(network) if compiled else network

    def student(self, images: Tensor, sizes: Tensor | None = None) -> Features:
        """The student's features of images [B, 3, s, s], or of the pictures of `sizes` [B, 2] in their upper left corners."""
        if sizes is not None:
            return forward_sized(self._network, cut(images, sizes))
        return self._forward(images, stages=self._method.stages)

    def teacher(self, teacher: NoTeacher, images: Tensor, teacher_images: Tensor | None) -> Features | None:
        """The teacher's features of its own view of them, or of the student's; None where it gives none."""
        return self._taught(teacher, images, teacher_images)

    def _taught(self, teacher: NoTeacher, images: Tensor, teacher_images: Tensor | None) -> Features | None:
        with forward_precision("fp32" if self._method.exact_teacher else teacher.precision, images.device.type):
            return teacher.features(images, teacher_images, self._method.teacher_stages)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, made of the last features, to every parameter."""
        loss.backward()  # type: ignore[no-untyped-call]


class GradientCache(WholeBatch):
    """Forward passes of at most `size` pictures, and yet the gradient of the whole batch.

    What draws random numbers (dropout, stochastic depth) draws the same in both passes over a chunk. Raises `ConfigError` where
    the network has batch-norm that is not frozen: it would see each chunk by itself.
    """

    def __init__(self, network: EmbeddingNet, method: Method, size: int, precision: Precision, *, compiled: bool = False) -> None:
        super().__init__(network, method, compiled=compiled)
        _refuse_batch_statistics(network, size)
        self._size, self._precision = size, precision
        self._student, self._teacher = _Side(leaves=True), _Side(leaves=False)
        self._chunks: list[_Chunk] = []

    def student(self, images: Tensor, sizes: Tensor | None = None) -> Features:
        """Features without graph: leaves of what the objective builds on them."""
        parts = torch.split(images, self._size)
        cuts = [None] * len(parts) if sizes is None else torch.split(sizes, self._size)
        self._chunks = [_Chunk(some, own) for some, own in zip(parts, cuts, strict=True)]
        features = self._student.collect([partial(self._embed, chunk) for chunk in self._chunks])
        assert features is not None
        return features

    def _embed(self, chunk: _Chunk) -> Features:
        with chunk.same_draws():
            return super().student(chunk.images, chunk.sizes)

    def teacher(self, teacher: NoTeacher, images: Tensor, teacher_images: Tensor | None) -> Features | None:
        """The teacher's features of all chunks, or None."""
        own = torch.split(images, self._size)
        theirs = [None] * len(own) if teacher_images is None else torch.split(teacher_images, self._size)
        return self._teacher.collect([partial(self._taught, teacher, a, b) for a, b in zip(own, theirs, strict=True)])

    def backward(self, loss: Tensor) -> None:
        """Differentiate `loss` with respect to the features, then, chunk by chunk, these with respect to the parameters."""
        super().backward(loss)
        gradients, chunks, start = self._student.take_gradients(), self._chunks, 0
        self._chunks = []
        while chunks:
            chunk = chunks.pop(0)
            with self._precision.autocast():
                features = self._embed(chunk)
            tensors = _tensors(features, maps="feature_map" in gradients)
            reached = [(tensor, gradients[name]) for name, tensor in tensors if name in gradients]
            stop = start + len(chunk.images)
            if reached:
                torch.autograd.backward([tensor for tensor, _ in reached], [gradient[start:stop] for _, gradient in reached])
            start = stop


class _Chunk:
    """Pictures, and where the generators of random numbers stood when they were first embedded."""

    def __init__(self, images: Tensor, sizes: Tensor | None) -> None:
        self.images, self.sizes = images, sizes
        self._states: list[Tensor] = []

    @contextlib.contextmanager
    def same_draws(self) -> Iterator[None]:
        """The first time, note the generators' state; later, go back to it for the while."""
        device = self.images.device
        on_gpu = [device] if device.type == "cuda" else []
        if not self._states:
            self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, on_gpu)]
            yield
            return
        with torch.random.fork_rng(devices=on_gpu):
            torch.set_rng_state(self._states[0])
            for where, state in zip(on_gpu, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, where)
            yield


class ChunkedFeatures(Features):
    """Features joined from chunks; the feature map, by far the largest of them, is made when it is first read."""

    def __init__(self, embedding: Tensor, pooled: Tensor, stages: dict[str, Tensor], make_map: Callable[[], Tensor]) -> None:
        for name, value in {"embedding": embedding, "pooled": pooled, "stages": stages, "_make_map": make_map}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def feature_map(self) -> Tensor:
        """[B, C, h, w]"""
        joined: Tensor = self._make_map()  # type: ignore[attr-defined]
        return joined


class _Side:
    """The passes of one network; from the step after one that read the feature map on, it is kept at once."""

    def __init__(self, *, leaves: bool) -> None:
        self._leaves, self._map_is_read = leaves, False
        self._last: ChunkedFeatures | None = None

    def collect(self, passes: Sequence[Callable[[], Features | None]]) -> ChunkedFeatures | None:
        """The features of all `passes` without graph, or None where they give none."""
        parts = [part for part in map(self._kept, passes) if part is not None]
        if not parts:
            return None
        joined = {name: self._join([part[name] for part in parts]) for name in parts[0]}
        map_ = joined.pop("feature_map", None)
        stages = {name.removeprefix("stages."): joined[name] for name in joined if name.startswith("stages.")}

        def make_map() -> Tensor:
            self._map_is_read = True
            if map_ is not None:
                return map_
            return self._join([part["feature_map"] for part in map(self._kept, passes) if part is not None])

        made = ChunkedFeatures(joined["embedding"], joined["pooled"], stages, make_map)
        self._last = made if self._leaves else None  # a teacher's would hold its pictures on the device until the next step
        return made

    def _kept(self, forward: Callable[[], Features | None]) -> dict[str, Tensor] | None:
        with torch.no_grad():
            features = forward()
        if features is None:
            return None
        return dict(_tensors(features, maps=self._map_is_read))

    def _join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).requires_grad_(self._leaves)

    def take_gradients(self) -> dict[str, Tensor]:
        """What was propagated to the leaves since, by name; they are let go."""
        last, self._last = self._last, None
        read = {} if last is None else dict(_tensors(last, maps="feature_map" in vars(last)))
        return {name: leaf.grad for name, leaf in read.items() if leaf.grad is not None}


def _tensors(features: Features, *, maps: bool) -> Iterator[tuple[str, Tensor]]:
    """Its tensors by name, the last feature map only if `maps`: it may be large, or not exist (pictures of different sizes)."""
    yield "embedding", features.embedding
    yield "pooled", features.pooled
    if maps:
        yield "feature_map", features.feature_map
    for name, stage in features.stages.items():
        yield f"stages.{name}", stage


def _refuse_batch_statistics(network: EmbeddingNet, size: int) -> None:
    network.train()
    moving = sum(isinstance(module, _BatchNorm) and module.training for module in network.modules())
    if moving:
        raise ConfigError(
            f"optim.chunk={size}: {moving} batch-norm layers of the student would see each chunk by itself, and the gradient "
            "would not be that of the whole batch: set student.frozen_batchnorm=true, or optim.chunk=0"
        )
