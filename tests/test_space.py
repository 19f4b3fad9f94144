"""Strict building, overriding and walking of configurations, on a small tree of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmkd.errors import ConfigError
from dmkd.space import Choice, Limit, OneOf, Range, Variants, build, flatten, nearest, override, search_space, to_dict


@dataclass(frozen=True)
class Diffusion:
    enabled: Annotated[bool, Choice((False, True))] = False
    omega: Annotated[float, Range(0.01, 0.99, when=("enabled", True)), Limit(above=0, below=1)] = 0.3


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "plain"
    margin: float = 0.2


@dataclass(frozen=True)
class Fancy:
    name: ClassVar[str] = "fancy"
    temperature: Annotated[float, Range(0.2, 2.0), Limit(above=0)] = 1.0
    dims: Annotated[tuple[int, ...], Limit(minimum=1)] = (512, 1024)
    diffusion: Diffusion = Diffusion()


@dataclass(frozen=True)
class Tree:
    method: Annotated[Plain | Fancy, Variants({"plain": Plain, "fancy": Fancy}, {"wide": Fancy(dims=(2048,))})] = field(
        default_factory=Plain
    )
    pooling: Annotated[str, OneOf(("average", "max"))] = "average"
    epochs: Annotated[int, Limit(minimum=0)] = 150
    epsilon: float | None = 0.1


def test_flatten_names_the_variant_and_every_leaf() -> None:
    assert flatten(Tree(method=Fancy())) == {
        "method.name": "fancy",
        "method.temperature": 1.0,
        "method.dims": (512, 1024),
        "method.diffusion.enabled": False,
        "method.diffusion.omega": 0.3,
        "pooling": "average",
        "epochs": 150,
        "epsilon": 0.1,
    }


def test_plain_values_build_an_equal_configuration() -> None:
    tree = Tree(method=Fancy(temperature=0.5, diffusion=Diffusion(True, 0.9)), epsilon=None)
    assert build(Tree, to_dict(tree)) == tree


def test_override_keeps_what_is_not_named_and_changes_variants_from_their_defaults() -> None:
    tree = Tree(method=Fancy(temperature=0.5))
    assert override(tree, {"method.diffusion.omega": 0.7}).method == Fancy(temperature=0.5, diffusion=Diffusion(omega=0.7))
    assert override(tree, {"method.name": "plain"}).method == Plain()
    assert override(tree, {"method.temperature": 2, "method.preset": "wide"}).method == Fancy(temperature=2.0, dims=(2048,))
    assert override(tree, {"method.name": "fancy"}).method == tree.method


def test_search_space_gives_dotted_keys_and_absolute_conditions() -> None:
    assert search_space(Tree(method=Fancy())) == {
        "method.temperature": Range(0.2, 2.0),
        "method.diffusion.enabled": Choice((False, True)),
        "method.diffusion.omega": Range(0.01, 0.99, when=("method.diffusion.enabled", True)),
    }
    assert search_space(Tree()) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methd": {}}, r"unknown key 'methd': did you mean 'method'\?"),
        ({"method": {"name": "fancy", "temprature": 1}}, r"unknown key 'method.temprature': did you mean 'method.temperature'\?"),
        ({"method": {"name": "fncy"}}, r"method.name: unknown 'fncy': did you mean 'fancy'\?"),
        ({"method": {"name": "fancy", "temperature": "warm"}}, r"method.temperature: found 'warm' \(str\), wanted float"),
        ({"method": {"name": "fancy", "temperature": 0.0}}, r"method.temperature: found 0.0, wanted > 0"),
        ({"method": {"name": "fancy", "temperature": float("nan")}}, r"method.temperature: found nan, wanted > 0"),
        ({"method": {"name": "fancy", "diffusion": {"omega": 1}}}, r"method.diffusion.omega: found 1.0, wanted > 0 and < 1"),
        ({"method": {"name": "fancy", "dims": 512}}, r"method.dims: found 512, wanted a list of int"),
        ({"method": {"name": "fancy", "dims": [512, 0]}}, r"method.dims: found 0, wanted >= 1"),
        ({"method": 3}, r"method: found 3, wanted a mapping with a 'name'"),
        ({"epochs": True}, r"epochs: found True \(bool\), wanted int"),
        ({"epochs": 1.5}, r"epochs: found 1.5 \(float\), wanted int"),
        ({"pooling": "avg"}, r"pooling: found 'avg': did you mean|pooling: found 'avg': known: average, max"),
        ([], r"config: found \[\], wanted a mapping"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Tree, values)  # type: ignore[arg-type]


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ConfigError, match="low must be below high"):
        Range(2, 1)
    with pytest.raises(ConfigError, match="positive if log"):
        Range(0, 1, log=True)


@given(st.floats(allow_nan=False), st.floats(-10, 10), st.floats(-10, 10))
def test_limits_are_intervals(value: float, low: float, high: float) -> None:
    assert Limit(minimum=low, maximum=high).holds(value) == (low <= value <= high)
    assert Limit(above=low, below=high).holds(value) == (low < value < high)


@dataclass(frozen=True)
class Owner:
    name: ClassVar[str] = "owner"
    diffusion: Diffusion = Diffusion(True, 0.7)


@dataclass(frozen=True)
class Owners:
    method: Annotated[Plain | Owner, Variants({"plain": Plain, "owner": Owner})] = field(default_factory=Plain)


def test_what_is_not_named_in_a_nested_part_comes_from_its_owners_default() -> None:
    wanted = Owner(Diffusion(True, 0.5))
    assert build(Owners, {"method": {"name": "owner", "diffusion": {"omega": 0.5}}}).method == wanted
    assert override(Owners(), {"method.name": "owner", "method.diffusion.omega": 0.5}).method == wanted


def test_a_name_and_a_preset_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="found name 'plain' and preset 'wide', which is of 'fancy': give one of them"):
        build(Tree, {"method": {"name": "plain", "preset": "wide"}})
    assert build(Tree, {"method": {"name": "fancy", "preset": "wide"}}).method == Fancy(dims=(2048,))
    with pytest.raises(ConfigError, match=r"method\.preset: unknown 'wider': did you mean 'wide'"):
        build(Tree, {"method": {"preset": "wider"}})


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("learning_rate", "did you mean 'lr'?"),
        ("wd", "did you mean 'weight_decay'?"),
        ("Weight-Decay", "did you mean 'weight_decay'?"),
        ("epoch", "did you mean 'epochs'?"),
        ("decay", "did you mean 'weight_decay'?"),
        ("zzz", "known: epochs, head_lr, lr, weight_decay"),
    ],
)
def test_the_nearest_name_is_by_spelling_words_or_initials(typed: str, answer: str) -> None:
    assert nearest(typed, ["lr", "head_lr", "weight_decay", "epochs"]) == answer


def test_a_long_list_of_names_is_cut() -> None:
    assert nearest("zzz", [f"name{number:03d}" for number in range(100)]).endswith(", ... (100 in all)")
