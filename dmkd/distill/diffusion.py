"""Diffusion of a teacher's similarities (Zeng et al.): within a batch, and over the whole training set.

`Diffusion` is a value that any method with a teacher similarity matrix can carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dmkd.distill.common import full_precision
from dmkd.distill.relations import distribution_kl, similarity_kl
from dmkd.errors import ConfigError
from dmkd.space import Choice, Limit, OneOf, Range


@full_precision
def row_softmax(similarity: Tensor, temperature: float = 1.0) -> Tensor:
    """Each row of a similarity matrix [B, B] as a distribution."""
    return (similarity / temperature).softmax(1)


@full_precision
def diffuse(similarity: Tensor, omega: float, clip_negative: bool = False) -> Tensor:
    """Refined similarities A = (1 - omega)(I - omega S)^-1 D of D = similarity [B, B] (Zeng et al., Eq. 3-5).

    S = V^-1/2 W V^-1/2, W = D with a zero diagonal (and, with `clip_negative`, without its negative entries), V its row sums.
    A row without neighbours keeps (1 - omega) D. Raises `ConfigError` where a row sum is negative: V^-1/2 does not exist.
    """
    affinity = similarity.masked_fill(_diagonal(similarity), 0)
    if clip_negative:
        affinity = affinity.clamp(min=0)
    degree = affinity.sum(1)
    if not clip_negative:
        _check_degrees(degree)
    scale = torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
    return _walk(scale[:, None] * affinity * scale, similarity, omega, regular=clip_negative)


def _check_degrees(degree: Tensor) -> None:
    if bool((degree < 0).any()):
        raise ConfigError(
            f"diffusion, form='paper': found a row whose similarities sum to {degree.min().item():.3g}, wanted every sum >= 0; "
            "set clip_negative=True, or form='released'"
        )


@full_precision
def batch_diffusion(
    similarity: Tensor,
    omega: float,
    temperature: float = 1.0,
    diffusion_temperature: float = 1.0,
    *,
    form: str = "released",
    clip_negative: bool = False,
) -> Tensor:
    """The target distribution [B, B] (rows sum to 1) of a teacher's similarity matrix [B, B] after diffusion in the batch.

    released: W = row softmax of the off-diagonal similarities at `diffusion_temperature`, which is not symmetric, and
    Q = (1 - omega)(I - omega W)^-1 softmax(D / temperature), no further softmax. paper: softmax(`diffuse`(D) / temperature),
    Eq. 4-6; there `diffusion_temperature` plays no part, and a negative row sum raises `ConfigError` unless `clip_negative`.
    """
    if form == "paper":
        return row_softmax(diffuse(similarity, omega, clip_negative), temperature)
    if form != "released":
        raise ConfigError(f"batch_diffusion: found form {form!r}, wanted 'released' or 'paper'")
    transition = (similarity.masked_fill(_diagonal(similarity), -1e9) / diffusion_temperature).softmax(1)
    # Rounding in the solver may leave a hair below zero, of which there is no logarithm.
    return _walk(transition, row_softmax(similarity, temperature), omega).clamp(min=0)


@full_precision
def global_diffusion(features: Tensor, neighbours: int = 50, omega: float = 0.99, power: float = 3) -> Tensor:
    """Random-walk matrix [N, N] of all features [N, D]: (1 - omega)(I - omega S)^-1 (Zeng et al., Eq. 3 and 12).

    The graph joins mutual nearest neighbours by dot product, a point counting as its own first neighbour; negative similarities
    are dropped and the rest raised to `power` (3 in the released code; Eq. 12 has none). Refined similarities are the result
    times the similarity matrix. A point without a mutual neighbour is left alone: its row is (1 - omega) times its own.
    """
    similarity = features @ features.T
    own = _diagonal(similarity)
    count = min(neighbours, len(features))
    nearest = similarity.masked_fill(own, torch.inf).topk(count, dim=1).indices
    chosen = torch.zeros_like(own).scatter_(1, nearest, True)
    affinity = similarity.clamp(min=0).pow(power) * (chosen & chosen.T & ~own)
    scale = (affinity.sum(1) + 1e-12).rsqrt()
    return _walk(scale[:, None] * affinity * scale, torch.eye(len(features), dtype=features.dtype, device=features.device), omega)


def _diagonal(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)


def _walk(transition: Tensor, start: Tensor, omega: float, *, regular: bool = True) -> Tensor:
    """(1 - omega)(I - omega S)^-1 start.

    Without negative entries S has a spectral radius of at most 1, and the inverse exists (`regular`). Else the solver is asked
    whether it does, and a GPU waited for.
    """
    if not 0 <= omega < 1:
        raise ConfigError(f"diffusion: found omega={omega:g}, wanted at least 0 and below 1, where I - omega S is singular")
    identity = torch.eye(len(transition), dtype=transition.dtype, device=transition.device)
    solved: tuple[Tensor, Tensor] = torch.linalg.solve_ex(identity - omega * transition, start)
    solution, failed = solved
    if not regular and bool(failed):
        raise ConfigError(f"diffusion: I - omega S with omega={omega:g} is singular here; lower omega, or set clip_negative=True")
    return (1 - omega) * solution


@dataclass(frozen=True)
class Diffusion:
    """Whether and how a method's teacher similarities are diffused in the batch before they become a target."""

    enabled: Annotated[bool, Choice((False, True))] = False
    omega: Annotated[float, Range(0.01, 0.99, when=("enabled", True)), Limit(above=0, below=1)] = 0.99
    """How far relations spread; published: 0.3 (CUB), 0.99 (Cars), 0.5 (SOP)."""
    temperature: Annotated[float, Limit(above=0)] = 1.0
    """tau_d of the transition matrix (released form); published: 1, and 0.005 on SOP."""
    form: Annotated[str, OneOf(("released", "paper"))] = "released"
    """released: row softmax, diffusion after the softmax; paper: Eq. 4-6, symmetric, softmax after the diffusion."""
    clip_negative: bool = False
    """Drop negative similarities from the graph (form "paper", which they can break)."""

    def target(self, similarity: Tensor, temperature: float = 1.0) -> Tensor:
        """The target distribution [B, B] of a teacher similarity matrix: diffused if enabled, else its row softmax."""
        if not self.enabled:
            return row_softmax(similarity, temperature)
        options = {"form": self.form, "clip_negative": self.clip_negative}
        return batch_diffusion(similarity, self.omega, temperature, self.temperature, **options)  # type: ignore[arg-type]

    def kl(
        self, student_similarity: Tensor, teacher_similarity: Tensor, temperature: float = 1.0, form: str = "released"
    ) -> Tensor:
        """KL of the student's rows to this target, in the given `form` of `relations.similarity_kl`; the target is detached."""
        teacher_similarity = teacher_similarity.detach()
        if not self.enabled:
            return similarity_kl(student_similarity, teacher_similarity, temperature, form)
        return distribution_kl(student_similarity, self.target(teacher_similarity, temperature), temperature, form)
