"""A run that is interrupted at any step, and resumed from a checkpoint on disk, ends in the weights of one that was not."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unlearning.methods.test_conformance import OF_SOME_MODELS, every_kind, spec_of
from tests.unlearning.small import CLASSES, RECIPE, dropping, normalised, same, start, state, task
from unlearning.methods.registry import METHODS
from unlearning.specs import PRODUCTION, Stop
from unlearning.specs.training import Ready2Unlearn
from unlearning.state import State
from unlearning.steps import Outcome, Progress, run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.task import Task

pytestmark = pytest.mark.usefixtures("hasty_guides")

SHORT = dataclasses.replace(RECIPE, epochs=2)


def everything() -> nn.Module:
    """Batch norm, whose statistics follow the run, and dropout, which draws from the process's random state."""
    return normalised().append(nn.Dropout(0.2)).append(nn.Linear(CLASSES, CLASSES))


def given(build: Callable[[], nn.Module]) -> Task:
    made = task(build)
    made.recipe = SHORT
    return made


@functools.cache
def uninterrupted(kind: str) -> tuple[dict[str, torch.Tensor], Outcome, int]:
    whole, seen = given(everything), list[Progress]()
    outcome = run_to_completion(start(spec_of(kind), whole), seen.append)
    return state(whole.model), outcome, len(seen)


@every_kind
def test_a_run_interrupted_once_ends_in_the_same_weights_and_taking_checkpoints_changes_nothing(
    kind: str, tmp_path: Path
) -> None:
    wanted, outcome, count = uninterrupted(kind)
    first = given(everything)
    checkpoints = [save_training_checkpoint(first.state.snapshot(), tmp_path) for _ in start(spec_of(kind), first)]
    assert same(state(first.model), wanted)
    assert len(checkpoints) == count
    for taken in sorted({0, count // 2, count - 1}):
        second = given(everything)
        second.state = State(load_training_checkpoint(*checkpoints[taken]))
        found = run_to_completion(start(spec_of(kind), second))

        assert same(state(second.model), wanted), taken
        assert ended_alike(found, outcome)


def ended_alike(one: Outcome, other: Outcome) -> bool:
    return (one.steps, one.stopped_because, one.metrics) == (other.steps, other.stopped_because, other.metrics)


@pytest.mark.parametrize(
    "kind",
    [
        # No job is resumed that runs another method.
        pytest.param(kind, marks=() if kind in PRODUCTION else pytest.mark.slow)
        for kind in sorted(METHODS.keys() - OF_SOME_MODELS)
    ],
)
def test_a_run_interrupted_at_every_step_ends_in_the_same_weights(kind: str, tmp_path: Path) -> None:
    wanted, outcome, count = uninterrupted(kind)
    content: dict[str, object] = {}
    for _ in range(count):
        one = given(everything)
        one.state = State(content)
        steps = start(spec_of(kind), one)
        next(steps)
        content = load_training_checkpoint(*save_training_checkpoint(one.state.snapshot(), tmp_path))
        steps.close()
    last = given(everything)
    last.state = State(content)
    found = run_to_completion(start(spec_of(kind), last))

    assert same(state(last.model), wanted)
    assert ended_alike(found, outcome)


def test_retraining_with_readiness_is_resumed_too(tmp_path: Path) -> None:
    ready = dataclasses.replace(SHORT, readiness=Ready2Unlearn(every=2))

    def prepared() -> Task:
        made = task(dropping)
        made.recipe = ready
        return made

    whole, first, second = prepared(), prepared(), prepared()
    run_to_completion(start(spec_of("retrain"), whole))
    steps = start(spec_of("retrain"), first)
    for _ in range(9):
        next(steps)
    second.state = State(load_training_checkpoint(*save_training_checkpoint(first.state.snapshot(), tmp_path)))
    steps.close()
    run_to_completion(start(spec_of("retrain"), second))

    assert same(state(second.model), state(whole.model))


def test_a_run_that_is_taken_again_at_a_lower_rate_is_resumed_there(tmp_path: Path) -> None:
    """No state keeps an allowed drop of 0, so that LTU takes its steps at each of its rates."""
    spec = dataclasses.replace(spec_of("ltu"), repair_steps=0, learning_rate=5.0, stop=Stop(allowed_drop=0.0))
    whole = given(dropping)
    seen: list[dict[str, torch.Tensor]] = []
    outcome = run_to_completion(start(spec, whole), lambda _: seen.append(state(whole.model)))
    assert outcome.steps > 5

    first, second = given(dropping), given(dropping)
    steps = start(spec, first)
    for _ in range(7):
        next(steps)
    second.state = State(load_training_checkpoint(*save_training_checkpoint(first.state.snapshot(), tmp_path)))
    steps.close()
    after: list[dict[str, torch.Tensor]] = []
    found = run_to_completion(start(spec, second), lambda _: after.append(state(second.model)))

    assert ended_alike(found, outcome)
    assert all(same(*pair) for pair in zip(after, seen[7:], strict=True))
