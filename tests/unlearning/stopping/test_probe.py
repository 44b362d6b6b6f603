"""The relearn probe: a set that was learned is relearned at once, another is not."""

import pytest
import torch

from tests.unlearning.small import OBJECTIVE, RECIPE, normalised, plain, same, samples, state, task
from unlearning.specs import Stop
from unlearning.stopping.probe import relearns_slowly
from unlearning.task import Task
from unlearning.training.loop import fit


def prepared(forgotten: int = 60) -> Task:
    given = task(plain, forgotten=forgotten)
    given.criterion = samples(300, seed=99)
    return given


def test_a_memorised_set_is_relearned_at_once() -> None:
    assert not relearns_slowly(prepared(), stop=Stop())


def test_a_set_never_learned_takes_as_long_as_the_control() -> None:
    given = prepared()
    given.forget = samples(60, seed=98)

    assert relearns_slowly(given, stop=Stop())
    assert relearns_slowly(given, stop=Stop(relearn_share=0.8))


def test_after_retraining_the_forgotten_set_takes_its_time() -> None:
    given = prepared()
    given.model = fit(plain, given.remain, RECIPE, objective=OBJECTIVE, seed=5)

    assert relearns_slowly(given, stop=Stop(relearn_share=0.7))


def test_a_share_of_zero_turns_the_probe_off() -> None:
    assert relearns_slowly(prepared(), stop=Stop(relearn_share=0.0))


def test_if_the_control_is_not_learned_either_the_probe_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearning.stopping.probe._RATE", 1e-9)

    assert relearns_slowly(prepared(), stop=Stop())


def test_a_class_that_the_criterion_lacks_does_not_stop_the_probe() -> None:
    given = prepared()
    given.forget = given.forget.take((given.forget.targets == 2).nonzero().flatten())
    given.criterion = given.criterion.take((given.criterion.targets != 2).nonzero().flatten())

    assert not relearns_slowly(given, stop=Stop())


def test_the_model_and_the_random_state_are_left_alone() -> None:
    given = task(normalised)
    before, random_state = state(given.model), torch.get_rng_state()
    relearns_slowly(given, stop=Stop())

    assert same(state(given.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in given.model.parameters())
