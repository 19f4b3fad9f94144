"""What relational terms refuse: other shapes, another batch, an unknown form; each by its numbers or its name."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dmkd.distill import relations
from dmkd.errors import ConfigError, ShapeError


@pytest.mark.parametrize("term", [relations.absolute, relations.regression, partial(relations.regression, form="paper")])
def test_other_dimensions_are_refused_with_the_numbers(term):
    with pytest.raises(ShapeError, match=r"\[4, 3\].*\[4, 7\]"):
        term(torch.ones(4, 3), torch.ones(4, 7))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    "term",
    [
        relations.relative,
        partial(relations.relative, form="paper"),
        relations.pkt,
        relations.rkd,
        relations.darkrank,
        partial(relations.darkrank, form="paper"),
    ],
)
def test_another_batch_is_refused_and_not_broadcast(term, rows):
    with pytest.raises(ShapeError, match=f"gives 3 embeddings, the teacher {rows}"):
        term(torch.ones(3, 4), torch.ones(rows, 4))


@pytest.mark.parametrize(
    "term", [relations.similarity_kl, partial(relations.similarity_kl, form="paper"), relations.distribution_kl]
)
def test_similarities_of_another_batch_are_refused(term):
    with pytest.raises(ShapeError, match=r"\[3, 3\].*\[1, 1\]"):
        term(torch.eye(3), torch.eye(1))


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"\[2, 3, 2, 2\].*\[2, 4, 2, 2\]"):
        relations.hint(torch.zeros(2, 3, 2, 2), torch.zeros(2, 4, 2, 2))
    with pytest.raises(ShapeError, match=r"\[2, 2, 2\].*\[2, 4, 4\]"):
        relations.attention(torch.ones(2, 3, 2, 2), torch.ones(2, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"\[2, 3, 4\].*\[2, 3, 5\]"):
        relations.coupled_terms(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))


@pytest.mark.parametrize(
    "term", [relations.relative, relations.regression, relations.darkrank, relations.similarity_kl, relations.distribution_kl]
)
def test_an_unknown_form_is_refused(term):
    with pytest.raises(ConfigError, match="papr"):
        term(torch.eye(3), torch.eye(3), form="papr")
