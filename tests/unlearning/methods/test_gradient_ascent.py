"""Gradient ascent: its step, and the calibrated stop that ends it."""

import copy

import torch
from torch import nn

from tests.unlearning.small import OBJECTIVE, plain, state, task
from unlearning.methods.registry import unlearn
from unlearning.specs import GradientAscent, Stop
from unlearning.steps import run_to_completion
from unlearning.task import Task


def test_a_step_is_the_gradient_of_the_forget_sets_mean_loss() -> None:
    given, by_hand = task(plain), task(plain).model
    steps = unlearn(GradientAscent(learning_rate=0.3, batch_size=1000, stop=Stop(check_every=1000)), given)
    next(steps)
    found = state(given.model)
    steps.close()
    OBJECTIVE.losses(by_hand, given.forget.batch).mean().backward()
    for name, p in by_hand.named_parameters():
        torch.testing.assert_close(found[name], p.detach() + 0.3 * p.grad)


def test_a_rate_that_destroys_the_model_is_given_up_and_the_best_state_kept() -> None:
    given = task(plain)
    before, destroyed = accuracy(given.model, given), copy.deepcopy(given)
    steps = unlearn(GradientAscent(learning_rate=50.0, stop=Stop(check_every=1000)), destroyed)
    next(steps)
    lost = accuracy(destroyed.model, given)
    steps.close()
    outcome = run_to_completion(unlearn(GradientAscent(learning_rate=50.0, steps=200, stop=Stop(check_every=1)), given))

    assert outcome.stopped_because == "utility"
    assert outcome.steps < 200
    assert lost < before - 0.2
    assert accuracy(given.model, given) > before - 0.05


def accuracy(model: nn.Module, given: Task) -> float:
    """The share of remaining samples that the model gets right."""
    with torch.no_grad():
        return float((model(given.remain.inputs).argmax(1) == given.remain.targets).float().mean())


def test_it_forgets_before_it_ends() -> None:
    given, original = task(plain), task(plain).model
    run_to_completion(unlearn(GradientAscent(learning_rate=0.02, stop=Stop(check_every=1, allowed_drop=30)), given))
    with torch.no_grad():
        losses = [OBJECTIVE.losses(model, given.forget.batch).mean() for model in (original, given.model)]

    assert losses[1] > 2 * losses[0]
