"""Programs of a network: a torch.export graph beside weights.safetensors, a torch.export program with its weights, an ONNX model.

Each takes float32 RGB images in [0, 1], [B, 3, H, W], for any B, and for any H and W where the network allows it.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn
from torch.export import Dim

from dmkd.errors import ConfigError, DmkdError
from dmkd.export.precision import Embeds, Functional, stored
from dmkd.models.embedder import EmbeddingNet

GRAPH, PT2, ONNX = "graph.pt2", "model.pt2", "model.onnx"
LEAST = 96
"""Pixels below which the deepest feature map of a usual network has one place, which exporters take for a constant."""


class ExportError(DmkdError, RuntimeError):
    """An exported file could not be made, or does not give the embeddings of the network it was made from."""


@dataclass(frozen=True)
class Program:
    """A file that computes embeddings, and how to run it here."""

    file: str
    content: bytes
    sized: bool
    """Whether it takes images of any size; else of the size of its example alone."""
    run: Callable[[Tensor], Tensor]
    """Images [B, 3, H, W] -> embeddings [B, D], by the written file."""


def graph(model: Embeds, net: EmbeddingNet, images: Tensor, sized: bool) -> Program:
    """The network without its weights: they stay in weights.safetensors. The file is a zip of JSON; there is no pickle in it."""
    weights = stored(net, model.precision)
    content = _exported(Functional(model), (weights, images), sized, {"weights": dict.fromkeys(weights)})
    program: Any = torch.export.load(io.BytesIO(content)).module()
    read = dict(sorted(safetensors.load(safetensors.save(weights)).items()))
    return Program(GRAPH, content, sized, lambda part: program(read, part))


def pt2(model: Embeds, net: EmbeddingNet, images: Tensor, sized: bool) -> Program:
    """The network with its weights, in one file."""
    if model.precision == "int8":
        weights = stored(net, "int8")
        content = _exported(_Bound(model, weights), (images,), sized)
    else:
        content = _exported(model, (images,), sized)
    program: Any = torch.export.load(io.BytesIO(content)).module()

    def run(part: Tensor) -> Tensor:
        """As whoever loads the file calls it: with its check of sizes, which `program.forward` leaves out."""
        found: Tensor = program(part)
        return found

    return Program(PT2, content, sized, run)


class _Bound(nn.Module):
    """`Functional` with its weights as buffers, so that they are stored as they are: int8."""

    def __init__(self, model: Embeds, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.function, self.names = Functional(model), {name: name.replace(".", "__") for name in weights}
        for name, tensor in weights.items():
            self.register_buffer(self.names[name], tensor)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D]."""
        embedding: Tensor = self.function({name: self.get_buffer(own) for name, own in self.names.items()}, images)
        return embedding


def _exported(
    module: nn.Module, arguments: tuple[Any, ...], sized: bool, shapes: Mapping[str, Any] = MappingProxyType({})
) -> bytes:
    *others, images = arguments
    with quiet(), torch.no_grad():
        example = (*others, larger(images) if sized else images)
        program = torch.export.export(module, example, dynamic_shapes={**shapes, "images": dimensions(sized)})
        program._example_inputs = None  # they would be stored, pickled
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def dimensions(sized: bool) -> dict[int, Any]:
    """Which dimensions of the images are free."""
    return {0: Dim("batch", min=1)} | ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if sized else {})


def larger(images: Tensor) -> Tensor:
    """An example from which no size is learnt as a special one: not square, and nowhere in the network a single place."""
    height, width = max(images.shape[2], LEAST) + 32, max(images.shape[3], LEAST) + 64
    return nn.functional.interpolate(images[:2], (height, width), mode="bilinear", antialias=True).clamp(0, 1)


def may_be_sized(net: EmbeddingNet) -> bool:
    """Whether padding does not depend on the size, as TensorFlow's "same" does: its symbolic sizes take minutes to simplify."""
    return not any("Same" in type(one).__name__ for one in net.modules())


def onnx(model: Embeds, net: EmbeddingNet, images: Tensor, sized: bool) -> Program:
    """An ONNX model with its weights; int8 is quantised by ONNX Runtime, weights and activations, calibrated on `images`.

    Raises `ConfigError` where a package is not installed.
    """
    missing = [package for package in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"format onnx needs {', '.join(missing)}: pip install 'dmkd[export]'")
    if model.precision == "int8":
        model = Embeds(model.net, "fp32").eval()
        model.net.load_state_dict(net.state_dict())
        content = _quantised(_onnx_content(model, images, sized), images)
    else:
        content = _onnx_content(model, images, sized)
    return Program(ONNX, content, sized, session(content))


def session(content: bytes) -> Callable[[Tensor], Tensor]:
    """An ONNX model on this CPU: images -> embeddings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    running = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda part: torch.from_numpy(running.run(["embedding"], {"images": part.numpy()})[0])


def _onnx_content(model: Embeds, images: Tensor, sized: bool) -> bytes:
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (larger(images) if sized else images,),
            dynamo=True,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_shapes={"images": dimensions(sized)},
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx gave no program: export as pt2 or safetensors")
    return bytes(program.model_proto.SerializeToString())


def _quantised(content: bytes, images: Tensor) -> bytes:
    import logging
    import tempfile
    from pathlib import Path

    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader:
        """The calibration pictures, one at a time."""

        def __init__(self) -> None:
            self.left = iter([images[position : position + 1] for position in range(len(images))])

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.left, None)
            return None if part is None else {"images": part.numpy()}

    with tempfile.TemporaryDirectory() as folder, quiet():
        logging.getLogger().disabled = True
        try:
            source, ready, made = (Path(folder) / name for name in ("source.onnx", "ready.onnx", "int8.onnx"))
            source.write_bytes(content)
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(made),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
            return made.read_bytes()
        finally:
            logging.getLogger().disabled = False


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters warn of their own internals; what counts here is the parity check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
