"""A task on data that a network can only remember, small enough to train a dozen shadow models of in a second or two."""

import dataclasses

import pytest

from tests.unlearning.small import plain, samples, task
from unlearning.audit.attacks.study import Study, make_study
from unlearning.specs import FineTune

QUICK = FineTune(epochs=1, learning_rate=0.02, batch_size=32)


@pytest.fixture(scope="session")
def small_study() -> Study:
    given = task(plain, forgotten=24)
    given.recipe = dataclasses.replace(given.recipe, epochs=12)
    return make_study(QUICK, given, samples(80, seed=13), seed=7)
