"""Any loss, and any miner, of pytorch-metric-learning by its name."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from dmkd.errors import ConfigError
from dmkd.losses.base import Loss
from dmkd.mining.pairs import check_batch, full_precision
from dmkd.space import Limit, nearest

_SIZES = ("num_classes", "embedding_size", "descriptors_dim")
"""Arguments of the library's losses that we know: the classes, and the embedding's dimension under its two names."""


class LibraryLoss(nn.Module):
    """A loss of pytorch-metric-learning behind the interface of this package."""

    def __init__(self, loss: nn.Module, miner: nn.Module | None, lr: float) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner
        self.lr = lr

    def forward(self, x: Tensor, labels: Tensor, ref_x: Tensor | None = None, ref_labels: Tensor | None = None) -> Tensor:
        """The loss of x [B, D], labels [B]; see `dmkd.losses.Loss.build`.

        Raises `ConfigError` where the library's loss refuses a reference set, as its proxy losses do.
        """
        check_batch(x, labels, ref_x, ref_labels)
        x, labels = _labelled(full_precision(x), labels)
        if ref_x is not None and ref_labels is not None:
            ref_x, ref_labels = _labelled(full_precision(ref_x), ref_labels)
        if len(x) == 0:
            return x.sum()
        # The library mixes types under a GPU's autocast, where it converts none itself: it never gets to see one.
        with torch.autocast(x.device.type, enabled=False):
            return self._value(x, labels, ref_x, ref_labels)

    def _value(self, x: Tensor, labels: Tensor, ref_x: Tensor | None, ref_labels: Tensor | None) -> Tensor:
        mined = None if self.miner is None else self.miner(x, labels, ref_x, ref_labels)
        try:
            result: Tensor = self.loss(x, labels, mined, ref_x, ref_labels)
        except ValueError as error:
            raise ConfigError(f"loss.loss {type(self.loss).__name__}: {' '.join(str(error).split())}") from error
        # Miners find no pair among NaNs and so give a loss of 0, on which training would go on.
        return result + 0 * x.sum()

    def parameter_groups(self, lr: float) -> list[dict[str, object]]:
        """Proxies and class weights at their own rate (the global `lr` if that is 0), without weight decay."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": parameters, "lr": self.lr or lr, "weight_decay": 0.0}] if parameters else []


def _labelled(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The rows with a label; the host waits for their number once, where each mask as an index would wait anew."""
    known = (labels >= 0).nonzero().squeeze(1)
    return x[known], labels[known]


@dataclass(frozen=True)
class Library(Loss):
    """A loss of pytorch-metric-learning, as `Library("ArcFaceLoss", ("margin=30", "scale=64"))`."""

    name: ClassVar[str] = "library"
    loss: str = "ProxyAnchorLoss"
    """Class name in pytorch_metric_learning.losses; the number of classes and the embedding size are filled in."""
    arguments: tuple[str, ...] = ()
    """Its other arguments, each as "name=value"."""
    miner: str = ""
    """Class name in pytorch_metric_learning.miners; empty: none."""
    miner_arguments: tuple[str, ...] = ()
    lr: Annotated[float, Limit(minimum=0)] = 0.0
    """Rate of the loss's own parameters (proxies want more than the network: 100 times in Proxy Anchor); 0: the global rate."""

    def build(self, dim: int, classes: int) -> nn.Module:
        """See `Loss.build`. Raises `ConfigError` naming the nearest loss, miner or argument for an unknown one."""
        from pytorch_metric_learning import losses, miners

        known = dict(zip(_SIZES, (classes, dim, dim), strict=True))
        loss = _make(
            _find(losses, losses.BaseMetricLossFunction, self.loss, "loss.loss"), self.arguments, known, "loss.arguments"
        )
        if not self.miner:
            return LibraryLoss(loss, None, self.lr)
        miner = _find(miners, miners.BaseMiner, self.miner, "loss.miner")
        return LibraryLoss(loss, _make(miner, self.miner_arguments, {}, "loss.miner_arguments"), self.lr)


def _find(module: ModuleType, kind: type[nn.Module], name: str, key: str) -> type[nn.Module]:
    named = {label: cls for label, cls in vars(module).items() if inspect.isclass(cls) and cls is not kind}
    classes = {label: cls for label, cls in named.items() if issubclass(cls, kind)}
    if name not in classes:
        raise ConfigError(f"{key}: unknown {name!r} in {module.__name__}: {nearest(name, classes)}")
    return classes[name]


def _make(cls: type[nn.Module], texts: tuple[str, ...], known: dict[str, int], key: str) -> nn.Module:
    """An instance of `cls` with the arguments typed by the user and those that we know, as far as its signature has them."""
    accepted = _parameters(cls)
    given = dict(_read(text, key) for text in texts)
    for name in given:
        if name not in accepted:
            raise ConfigError(f"{key}: {cls.__name__} has no argument {name!r}: {nearest(name, accepted)}")
    values = {name: value for name, value in known.items() if name in accepted} | given
    missing = [name for name, parameter in accepted.items() if parameter.default is parameter.empty and name not in values]
    if missing:
        raise ConfigError(f"{key}: {cls.__name__} also wants {', '.join(missing)}; give them as {missing[0]}=value")
    try:
        return cls(**values)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{key}: {cls.__name__}({values}) is refused: {' '.join(str(error).split())}") from error


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Named arguments of the constructor and, since the library hands `**kwargs` up, the optional ones of its base classes.

    What a base class requires beside the sizes that we fill in is given to it by `cls` itself.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found: dict[str, inspect.Parameter] = {}
    library = [base for base in cls.__mro__ if base.__module__.startswith("pytorch_metric_learning") and "__init__" in vars(base)]
    for base in library:
        for name, parameter in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
            optional = base is cls or parameter.default is not parameter.empty or name in _SIZES
            if name != "self" and parameter.kind in named and optional:
                found.setdefault(name, parameter)
    return found


def _read(text: str, key: str) -> tuple[str, Any]:
    """("margin", 0.1) of "margin=0.1": numbers, booleans and lists as JSON or Python writes them, all else as a string."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError(f"{key}: found {text!r}, wanted name=value, as in margin=0.1")
    for read in (json.loads, ast.literal_eval):
        try:
            return name.strip(), read(value.strip())
        except (ValueError, SyntaxError):
            continue
    return name.strip(), value.strip()
