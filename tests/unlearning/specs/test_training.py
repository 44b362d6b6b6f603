"""Recipes as an outsider writes them."""

import dataclasses

import pytest

from unlearning.errors import InvalidSpec
from unlearning.specs.training import DPSGD, Ready2Unlearn, Recipe, Reweighting


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0)])
def test_a_recipe_that_trains_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidSpec):
        dataclasses.replace(Recipe(epochs=1), **{name: value})


@pytest.mark.parametrize(
    ("preparation", "name", "value"),
    [
        (Reweighting(), "weight", -0.1),
        (Reweighting(), "weight", 1.1),
        (Reweighting(), "revocable_share", 0.0),
        (Reweighting(), "revocable_share", 1.0),
        (DPSGD(), "noise", 0.0),
        (DPSGD(), "clip", 0.0),
        (DPSGD(), "delta", 0.0),
        (DPSGD(), "delta", 1.0),
    ],
)
def test_a_preparations_ranges_hold(preparation: Reweighting | DPSGD, name: str, value: float) -> None:
    with pytest.raises(InvalidSpec):
        dataclasses.replace(preparation, **{name: value})


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
