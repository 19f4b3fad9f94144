"""Distillation terms between a student and a teacher, as pure functions.

They work on the vectors as given: nothing is normalised inside, except where a line says cosine. float64 in, float64 out; half
precision is lifted to float32 and autocast is off inside. Every term is differentiable in the student's argument; the teacher's
is a constant that the caller detaches. `form="released"` is what the authors' code computes, `form="paper"` what their text says.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dmkd.distill.common import full_precision
from dmkd.errors import ConfigError, ShapeError

EPSILON = 1e-6


@full_precision
def absolute(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of the (un-squared) Euclidean distance from each embedding [B, D] to its teacher's [B, D].

    Yu et al. 2019, absolute teacher; 1e-6 is added to the difference as in the released code. Raises `ShapeError` where the
    dimensions differ.
    """
    _same_shape("absolute", student, teacher)
    return F.pairwise_distance(student, teacher, eps=EPSILON).mean()


@full_precision
def relative(student: Tensor, teacher: Tensor, form: str = "released") -> Tensor:
    """Difference of the two Euclidean distance matrices of [B, D] and [B, D'] embeddings (Yu et al. 2019, Eq. 5).

    released: the Frobenius norm of the whole matrix, one scalar that grows with B (lambda 0.3 / 0.1 / 1.0 belong to it; its
    gradient is 0 where the matrices are equal; equal rows stand 1e-6 apart). paper: the mean of |d_S - d_T| over unordered pairs.
    Raises `ShapeError` where they have different numbers of rows, as every term of pairs does.
    """
    _same_rows("relative", student, teacher)
    if _form(form) == "released":
        return _norm((_floored_distances(student) - _floored_distances(teacher)).flatten())
    difference = _distances(student) - _distances(teacher)
    rows, columns = torch.triu_indices(len(student), len(student), 1, device=student.device)
    return difference[rows, columns].abs().sum() / max(1, len(rows))


@full_precision
def regression(student: Tensor, teacher: Tensor, form: str = "released") -> Tensor:
    """Each embedding [B, D] towards its teacher's [B, D], summed over images (Budnik & Avrithis, Eq. 7).

    released: half the squared distance (1e-6 added to the difference), 1 - cosine for unit vectors. paper: minus the cosine.
    """
    _same_shape("regression", student, teacher)
    if _form(form) == "paper":
        return -F.cosine_similarity(student, teacher, dim=1).sum()
    return 0.5 * (student - teacher + EPSILON).square().sum()


@full_precision
def hint(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean over the batch of the Frobenius distance of two feature maps [B, C, h, w] (Yu et al. 2019, Eq. 8).

    Raises `ShapeError` where channels or sizes differ.
    """
    _same_shape("hint", student_map, teacher_map)
    return _norm((student_map - teacher_map).flatten(1)).mean()


@full_precision
def attention(student_map: Tensor, teacher_map: Tensor, form: str = "yu") -> Tensor:
    """Distance of the spatial attention of two feature maps [B, C, h, w] and [B, C', h, w].

    yu: absolute values summed over channels, unit length, un-squared distance, mean over the batch (Yu et al. 2019, Eq. 10-11).
    zagoruyko: squares averaged over channels, unit length, mean squared difference (Zagoruyko & Komodakis 2017).
    Raises `ShapeError` where the spatial sizes differ.
    """
    if form not in ("yu", "zagoruyko"):
        raise ConfigError(f"attention: found form {form!r}, wanted 'yu' or 'zagoruyko'")
    _same_shape("attention", student_map[:, 0], teacher_map[:, 0], "maps")
    power = 1 if form == "yu" else 2
    source, target = (F.normalize(x.abs().pow(power).mean(1).flatten(1), dim=1) for x in (student_map, teacher_map))
    difference = source - target
    return _norm(difference).mean() if form == "yu" else difference.square().mean()


@full_precision
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Probabilistic knowledge transfer between [B, D] and [B, D'] (Passalis & Tefas 2018), diagonal included.

    Cosines mapped to [0, 1], rows normalised to sum 1, p_T log((p_T + 1e-7) / (p_S + 1e-7)) averaged over all B^2 entries.
    """
    _same_rows("pkt", student, teacher)
    tiny = 1e-7
    source, target = _pkt_probabilities(student, tiny), _pkt_probabilities(teacher, tiny)
    return (target * torch.log((target + tiny) / (source + tiny))).mean()


@full_precision
def rkd(student: Tensor, teacher: Tensor, distance: float = 1.0, angle: float = 2.0) -> Tensor:
    """Relational distillation between [B, D] and [B, D'] (Park et al. 2019), weighted sum of its two terms; memory B^3.

    distance: Huber mean over all B^2 distances, each divided by the mean of those of two rows (equal rows stand 1e-6 apart, so
    that the mean is never 0); angle: Huber mean over all B^3 cosines.
    """
    _same_rows("rkd", student, teacher)
    total = student.new_zeros(())
    if distance:
        total = total + distance * F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
    if angle:
        total = total + angle * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return total


@full_precision
def darkrank(
    student: Tensor, teacher: Tensor, alpha: float = 3, beta: float = 3, list_size: int = 4, *, form: str = "released"
) -> Tensor:
    """Negative log-likelihood of the teacher's ranking under the student's scores, [B, D] and [B, D'] (Chen et al. 2018).

    released: scores -alpha * distance^beta, the `list_size` nearest of the teacher, mean over anchors. paper (Budnik & Avrithis,
    Eq. 9): cosine scores, the whole list, sum over anchors. The anchor itself is never in the list.
    """
    _same_rows("darkrank", student, teacher)
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    if _form(form) == "paper":
        scores, wanted = _cosines(student), _cosines(teacher)
        list_size = len(student)
    else:
        scores, wanted = -alpha * _floored_distances(student).pow(beta), -_floored_distances(teacher)
    order = wanted.masked_fill(own, -torch.inf).argsort(dim=1, descending=True)[:, : min(list_size, len(student) - 1)]
    ranked = scores.gather(1, order)
    log_likelihood = (ranked - ranked.flip(1).logcumsumexp(1).flip(1)).sum(1)
    return -log_likelihood.sum() if form == "paper" else -log_likelihood.mean()


@full_precision
def similarity_kl(
    student_similarity: Tensor, target_similarity: Tensor, temperature: float = 1.0, form: str = "released"
) -> Tensor:
    """KL between the row softmaxes of two similarity matrices [B, B], diagonal included.

    released: T^2 times the mean over rows of KL(target || student) (S2SD's code, OBD Eq. 1). paper: the sum over rows of
    KL(student || target), without T^2 (S2SD Eq. 3 as printed).
    """
    return _row_kl(student_similarity, (target_similarity / temperature).log_softmax(1), temperature, form)


@full_precision
def distribution_kl(
    student_similarity: Tensor, target_distribution: Tensor, temperature: float = 1.0, form: str = "released"
) -> Tensor:
    """KL of the student's row softmax [B, B] to rows that are distributions already (a diffused target); `form` as above."""
    tiny = torch.finfo(target_distribution.dtype).tiny
    return _row_kl(student_similarity, target_distribution.clamp(min=tiny).log(), temperature, form)


@full_precision
def coupled_terms(student: Tensor, teacher: Tensor, reduction: str = "mean") -> dict[str, Tensor]:
    """RAML's three terms (Suma & Tolias, Eq. 5-9) for A coupled views of B images, both [B, A, D], one dimension.

    abs: (1 - s_i.t_i + eps)^2 over views; rel_ts: (s_i.t_j - t_i.t_j + eps)^2 and rel_ss: (s_i.s_j - t_i.t_j + eps)^2 over
    ordered pairs i != j, eps = 1e-6; each averaged within an image, then over images ("mean", the text) or summed ("sum", the
    released code). With A = 1 the two relative terms are 0. Raises `ShapeError` where the shapes differ.
    """
    if reduction not in ("mean", "sum"):
        raise ConfigError(f"coupled_terms: found reduction {reduction!r}, wanted 'mean' or 'sum'")
    _same_shape("coupled_terms", student, teacher)
    images, views, _ = student.shape
    pairs = (1 - torch.eye(views, dtype=student.dtype, device=student.device)) / max(1, views * (views - 1))
    target = teacher @ teacher.mT
    terms = {
        "abs": (1 - (student * teacher).sum(-1) + EPSILON).square().mean(1),
        "rel_ts": ((student @ teacher.mT - target + EPSILON).square() * pairs).sum((1, 2)),
        "rel_ss": ((student @ student.mT - target + EPSILON).square() * pairs).sum((1, 2)),
    }
    return {name: values.sum() / (images if reduction == "mean" else 1) for name, values in terms.items()}


def _form(form: str) -> str:
    if form not in ("released", "paper"):
        raise ConfigError(f"found form {form!r}, wanted 'released' or 'paper'")
    return form


def _same_shape(term: str, student: Tensor, teacher: Tensor, what: str = "values") -> None:
    if student.shape != teacher.shape:
        raise ShapeError(
            f"{term}: the student gives {what} of shape {list(student.shape)}, the teacher {list(teacher.shape)}; they must agree"
        )


def _same_rows(term: str, student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher):  # one row would be broadcast, and give a number
        raise ShapeError(
            f"{term}: the student gives {len(student)} embeddings, the teacher {len(teacher)}; they must be of one batch"
        )


def _norm(x: Tensor) -> Tensor:
    """Length along the last dimension; its gradient at 0 is 0."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return length


def _distances(x: Tensor) -> Tensor:
    # Without the matrix-product shortcut: its rounding error is as large as the distances of near duplicates.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _floored_distances(x: Tensor) -> Tensor:
    """Distances [B, B] of at least 1e-6 between two rows (gradient 0 below), as released; the diagonal is 0."""
    own = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return _distances(x).clamp(min=EPSILON).masked_fill(own, 0)


def _cosines(x: Tensor) -> Tensor:
    rows = F.normalize(x, dim=1)
    return rows @ rows.T


def _pkt_probabilities(x: Tensor, tiny: float) -> Tensor:
    rows = x / (_norm(x).unsqueeze(1) + tiny)
    similarity = (rows @ rows.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


def _relative_distances(x: Tensor) -> Tensor:
    distances = _floored_distances(x)
    mean = distances.sum() / max(1, len(x) * (len(x) - 1))
    return distances / mean.clamp(min=EPSILON)


def _angles(x: Tensor) -> Tensor:
    difference = x.unsqueeze(0) - x.unsqueeze(1)
    length = _norm(difference).unsqueeze(2)
    # Equal rows have no direction: dividing by a tiny length would give them an enormous gradient.
    directions = difference / torch.where(length > 1e-12, length, 1)
    return directions @ directions.mT


def _row_kl(student_similarity: Tensor, log_target: Tensor, temperature: float, form: str) -> Tensor:
    _same_shape("KL of similarities", student_similarity, log_target)
    log_student = (student_similarity / temperature).log_softmax(1)
    if _form(form) == "paper":
        return F.kl_div(log_target, log_student, reduction="sum", log_target=True)
    return temperature**2 * F.kl_div(log_student, log_target, reduction="batchmean", log_target=True)
