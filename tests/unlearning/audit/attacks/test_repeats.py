"""Repeated unlearning beside repeated retraining."""

from pathlib import Path

import numpy as np
import pytest

from tests.unlearning.small import OBJECTIVE
from unlearning.audit.attacks.shadows import Repeats, repeat, repeats
from unlearning.audit.attacks.study import Study, seed_of
from unlearning.audit.signals import observe
from unlearning.task import run_to_completion
from unlearning.training.loop import fit


def test_a_repeat_retrains_from_a_seed_of_its_own(small_study: Study) -> None:
    found = run_to_completion(repeat(small_study, 1))
    given = small_study.task
    oracle = fit(given.build, given.remain, given.recipe, objective=OBJECTIVE, seed=seed_of(small_study, 2, 1))
    seen = observe(oracle, given.remain, objective=OBJECTIVE)

    np.testing.assert_allclose(found["retrained"], observe(oracle, given.forget, objective=OBJECTIVE).margin)
    assert found["retrained_accuracies"][0] == seen.correct.mean()


def test_each_repeat_differs_and_all_are_stacked(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(repeats(small_study, count=4, folder=tmp_path))

    assert found.unlearned.shape == found.retrained.shape == (4, len(small_study.task.forget))
    assert found.unlearned_accuracies.shape == (4, 2)
    assert len(np.unique(found.retrained[:, 0])) == 4


def test_the_utility_is_the_product_of_the_ratios_to_retraining() -> None:
    nothing = np.zeros((2, 1))
    found = Repeats(
        unlearned=nothing,
        retrained=nothing,
        unlearned_accuracies=np.array([[0.8, 0.6], [1.0, 0.6]]),
        retrained_accuracies=np.array([[1.0, 0.8], [1.0, 0.8]]),
    )

    assert found.utility == pytest.approx(0.9 * 0.75)
