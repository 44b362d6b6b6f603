"""The attack on every shadow model."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks import attack_on_each
from unlearning.audit.attacks.lira import lira


def halves(rng: np.random.Generator, *, models: int, samples: int) -> NDArray[np.bool_]:
    """Each sample is in half of the models."""
    return rng.permuted(np.tile([True, False], (samples, models // 2)), axis=1).T


def test_models_that_know_their_members_are_recognised_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    members = halves(rng, models=12, samples=100)
    unknown = rng.normal(size=members.shape)

    assert attack_on_each(unknown + 10 * members, members) == 1
    assert abs(attack_on_each(unknown, members) - 0.5) < 0.1


def test_a_model_is_no_shadow_model_of_its_own() -> None:
    """Scores with the attacked model among the shadow models lean to the truth."""
    rng = np.random.default_rng(1)
    members = halves(rng, models=6, samples=200)
    margins = rng.normal(size=members.shape)

    with_itself = [lira(each, margins, members)[inside].mean() for each, inside in zip(margins, members, strict=True)]

    assert np.mean(with_itself) > 0
    assert abs(attack_on_each(margins, members) - 0.5) < 0.1
