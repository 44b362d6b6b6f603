"""Recipes as an outsider writes them."""

import dataclasses
import math

import pytest

from unlearning.errors import InvalidSpec
from unlearning.specs.training import DPSGD, Augmentation, Ready2Unlearn, Recipe, Reweighting


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("precision", "float16"),
    ],
)
def test_a_recipes_ranges_hold(name: str, value: object) -> None:
    with pytest.raises(InvalidSpec) as raised:
        dataclasses.replace(Recipe(epochs=1), **{name: value})
    assert raised.value.field == name


@pytest.mark.parametrize(
    ("preparation", "name", "value"),
    [
        (Reweighting(), "weight", -0.1),
        (Reweighting(), "weight", 1.1),
        (Reweighting(), "revocable_share", 0.0),
        (Reweighting(), "revocable_share", 1.0),
        (Ready2Unlearn(), "order", "third"),
        (Ready2Unlearn(), "gain", "sum"),
        (Ready2Unlearn(), "retention", -1.0),
        (Ready2Unlearn(), "retention", math.nan),
        (Ready2Unlearn(), "longest", 0.0),
        (Ready2Unlearn(), "every", 0),
        (Ready2Unlearn(), "warm_up", 1.5),
        (Augmentation(), "padding", -1),
        (DPSGD(), "noise", 0.0),
        (DPSGD(), "clip", 0.0),
        (DPSGD(), "delta", 0.0),
        (DPSGD(), "delta", 1.0),
    ],
)
def test_a_preparations_ranges_hold(
    preparation: Ready2Unlearn | Reweighting | Augmentation | DPSGD, name: str, value: object
) -> None:
    with pytest.raises(InvalidSpec) as raised:
        dataclasses.replace(preparation, **{name: value})  # type: ignore[arg-type]  # bad values
    assert raised.value.field == name


@pytest.mark.parametrize(
    "two",
    [
        {"readiness": Ready2Unlearn(), "reweighting": Reweighting()},
        {"readiness": Ready2Unlearn(), "privacy": DPSGD()},
        {"reweighting": Reweighting(), "privacy": DPSGD()},
    ],
)
def test_a_model_is_prepared_in_one_way_at_most(two: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec, match="one of"):
        Recipe(epochs=1, **two)
