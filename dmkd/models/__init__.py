"""Networks: backbones by name, pooling, a linear embedding; registry of names, FLOPs and parameter counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dmkd.space import Choice, Limit, OneOf


@dataclass(frozen=True)
class Network:
    """An embedding network: backbone, pooling, linear embedding, L2. Defaults are those of S2SD and OBD-SD (R50, 128-d)."""

    backbone: str = "resnet50"
    """A torchvision name ("resnet50"), a timm name with its prefix ("timm/tf_efficientnet_lite0"), or one of `dmkd networks`."""
    weights: str = "imagenet"
    """"imagenet" (torchvision's or timm's, or a package that carries them), "none", or the path of a weight file."""
    pooling: Annotated[str, OneOf(("average", "max", "average+max", "gem"))] = "average"
    dim: Annotated[int, Limit(minimum=0)] = 128
    """Embedding dimension; 0: no linear layer, the normalised pooled features are the embedding."""
    projection: Annotated[str, OneOf(("linear", "conv"))] = "linear"
    """To `dim`: a linear layer after the pooling, or AML's 1x1 convolution and ReLU before it (embeddings then are >= 0)."""
    head_init: Annotated[str, OneOf(("", "kaiming"))] = ""
    """How the layer to `dim` starts. Empty: as PyTorch's do; kaiming: normal by fan-out, bias 0, as in Yu et al.'s released code
    (weights 2.4 times as large between 512 channels and 512 dimensions, which Adam's steps turn less)."""
    resolution: Annotated[int, Limit(minimum=16, maximum=4096), Choice((112, 160, 224))] = 224
    """Side of the square crop in training and test, pixels."""
    interpolation: Annotated[str, OneOf(("", "bilinear", "bicubic", "lanczos"))] = ""
    """Filter (antialiased) of the test transform, saved with the network: lanczos in RAML's released code; empty: bilinear, or
    that of the checkpoint started from. Augmented views are bilinear in any case."""
    frozen_batchnorm: bool = True
    """Running statistics stay as they are; scale and shift still train. Without effect where there is none (ViT, ConvNeXt)."""
    frozen: tuple[str, ...] = ()
    """Modules of the backbone whose parameters do not train, by their dotted names ("layer1", "blocks.0"): cheaper, milder."""
    checkpoint: str = ""
    """Start from this checkpoint folder instead of `weights` ("teacher": from the teacher's weights, as RAML)."""


@dataclass(frozen=True)
class Teacher:
    """The external teacher of methods that want one; its architecture is read from its checkpoint."""

    checkpoint: str = ""
    """Folder of a checkpoint (or a REF, which the command line and the sweep turn into a folder)."""
    resolution: Annotated[int, Limit(minimum=0, maximum=4096)] = 0
    """Side of the teacher's crop, pixels; 0: as it was trained."""
    precision: Annotated[str, OneOf(("student", "fp32", "bf16", "fp16"))] = "student"
    """Of the teacher's forward pass in a step: "student": as `optim.precision` says. Its embedding is float32 in any case, and so
    are the losses; bf16 beside a student in fp32 rounds its targets to about three digits. A method that needs an exact teacher
    runs it in float32 whatever this says, and evaluation does too."""
    features: str = ""
    """Of the training pictures, where a method works with stored ones: "" keeps them in a cache that runs share
    (`$DMKD_CACHE/features`), "none" computes them in each run, a path is a file of stored features that has to fit."""
