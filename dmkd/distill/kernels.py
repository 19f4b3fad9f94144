"""Kernels of S2SD's figure 3C: how far a student's similarity matrix [B, B] is from the one that it is taught.

Pure functions, differentiable in the student's matrix; the target is a constant that the caller detaches. float64 in, float64
out; half precision is lifted to float32 and autocast is off inside. `form="paper"` follows the text of Eq. 3: a sum over rows
where the code has a mean, and for the divergences the student's distribution first and no factor T^2.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from dmkd.distill.common import full_precision
from dmkd.distill.relations import similarity_kl
from dmkd.errors import ConfigError


@full_precision
def matrix_kl(student_similarity: Tensor, target_similarity: Tensor, temperature: float = 1.0, form: str = "released") -> Tensor:
    """KL between the softmaxes of the two whole matrices: one distribution over all B^2 pairs."""
    return similarity_kl(student_similarity.reshape(1, -1), target_similarity.reshape(1, -1), temperature, form)


@full_precision
def means_kl(student_similarity: Tensor, target_similarity: Tensor, temperature: float = 1.0, form: str = "released") -> Tensor:
    """KL between the softmaxes of the B row means: one distribution over the samples."""
    return similarity_kl(student_similarity.mean(1)[None], target_similarity.mean(1)[None], temperature, form)


@full_precision
def row_cosine(student_similarity: Tensor, target_similarity: Tensor, form: str = "released") -> Tensor:
    """1 - cosine between corresponding rows, mean over rows (sum with `form="paper"`)."""
    return _over_rows(1 - F.cosine_similarity(student_similarity, target_similarity, dim=1), form)


@full_precision
def row_euclidean(student_similarity: Tensor, target_similarity: Tensor, form: str = "released") -> Tensor:
    """Euclidean distance between corresponding rows, mean over rows (sum with `form="paper"`); gradient 0 at equal rows."""
    return _over_rows((student_similarity - target_similarity).norm(dim=1), form)


def _over_rows(values: Tensor, form: str) -> Tensor:
    if form not in ("released", "paper"):
        raise ConfigError(f"found form {form!r}, wanted 'released' or 'paper'")
    return values.sum() if form == "paper" else values.mean()


Kernel = Callable[[Tensor, Tensor, float, str], Tensor]
"""(student similarities [B, B], target similarities [B, B], temperature, form) -> a scalar."""

KERNELS: dict[str, Kernel] = {
    "rows": similarity_kl,
    "matrix": matrix_kl,
    "means": means_kl,
    "cosine": lambda student, target, temperature, form: row_cosine(student, target, form),
    "euclidean": lambda student, target, temperature, form: row_euclidean(student, target, form),
}
"""`S2SD.kernel` -> the function. A temperature has no part in the last two."""
