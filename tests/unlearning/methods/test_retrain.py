"""Retrain initialises all layers: a public "retrain" re-initialises only the last one."""

from functools import partial

import torch
from torch import nn

from tests.unlearning.methods.watching import Seen, places, watching
from tests.unlearning.small import OBJECTIVE, RECIPE, WIDTH, normalised, plain, same, samples, state, task, task_of
from unlearning.data.objectives import regression
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload, split_held_out
from unlearning.methods.registry import unlearn
from unlearning.specs import Retrain
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit, fresh


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


def test_a_forgotten_target_does_not_scale_the_loss_of_a_regression() -> None:
    """The workload's objective is fitted to what is never forgotten."""

    def retrained(forgotten: float) -> dict[str, torch.Tensor]:
        sets = {name: given_numbers(name, count) for name, count in (("train", 60), ("held_out", 20), ("test", 9))}
        sets["train"].targets[-1] = forgotten
        build = partial(nn.Linear, WIDTH, 1)
        made = Workload(name="numbers", build=build, objective=regression(), recipe=RECIPE, **sets)
        index = torch.arange(len(made.train))
        given = task_of(
            fresh(build, seed=0).eval(), build, forget=made.train.take(index[-1:]), remain=made.train.take(index[:-1])
        )
        given.objective, held_out = made.objective, split_held_out(made.held_out)
        given.guide, given.criterion = held_out.guide, held_out.criterion
        run_to_completion(unlearn(Retrain(), given))
        return state(given.model)

    assert same(retrained(1.0), retrained(1000.0))


def given_numbers(name: str, count: int) -> SampleSet:
    inputs = samples(count, seed=len(name)).inputs
    return SampleSet(ids=tuple(f"{name}-{place}" for place in range(count)), inputs=inputs, targets=inputs.sum(1))


def test_buffers_start_anew_too() -> None:
    given = task(normalised)
    norm = next(module for module in given.model.modules() if isinstance(module, nn.BatchNorm1d))
    with torch.no_grad():
        norm.running_mean.fill_(1e6)
    next(unlearn(Retrain(), given))

    assert norm.running_mean.abs().max() < 1e3
