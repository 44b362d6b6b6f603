"""Retrain initialises all layers: a public "retrain" re-initialises only the last one."""

import torch
from torch import nn

from tests.unlearning.methods.watching import Seen, places, watching
from tests.unlearning.small import OBJECTIVE, normalised, plain, same, state, task
from unlearning.methods.registry import unlearn
from unlearning.specs import Retrain
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit


def test_it_is_training_on_the_remaining_set_by_the_models_recipe() -> None:
    given = task(normalised)
    run_to_completion(unlearn(Retrain(), given))

    assert same(
        state(given.model), state(fit(given.build, given.remain, given.recipe, objective=OBJECTIVE, seed=given.seed))
    )


def test_nothing_of_the_original_is_left_in_it() -> None:
    """Its weights and its batch-norm statistics are the same whatever the original's were."""
    given, other = task(normalised), task(normalised)
    with torch.no_grad():
        for tensor in other.model.state_dict().values():
            tensor.fill_(7)
    for one in (given, other):
        run_to_completion(unlearn(Retrain(), one))

    assert same(state(given.model), state(other.model))


def test_it_never_sees_the_forget_set() -> None:
    given = task(plain)
    seen: Seen = []
    given.objective = watching(seen)
    run_to_completion(unlearn(Retrain(), given))

    assert seen
    assert all((places(batch, given.forget) < 0).all() for batch in seen)


def test_buffers_start_anew_too() -> None:
    given = task(normalised)
    norm = next(module for module in given.model.modules() if isinstance(module, nn.BatchNorm1d))
    with torch.no_grad():
        norm.running_mean.fill_(1e6)
    next(unlearn(Retrain(), given))

    assert norm.running_mean.abs().max() < 1e3
