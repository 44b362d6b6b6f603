"""A training in slices by the owner's function, killed anywhere, ends in the weights of one that was not."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unlearning.small import OBJECTIVE, dropping, same, samples, sliced, state
from tests.unlearning.trainers import train_by_adamw
from unlearning.data.samples import SampleSet, joined
from unlearning.data.workload import OwnTraining
from unlearning.errors import InvalidWorkload
from unlearning.random_state import isolated
from unlearning.state import State
from unlearning.steps import Steps, run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.training.loop import fresh, train_steps

OWN = OwnTraining(trainer=functools.partial(train_by_adamw, epochs=2, batch_size=8, rate=1e-2))
SAMPLES = sliced(samples(24, seed=1), [0] * 8 + [1] * 16)
STEPS = 2 * 1 + 2 * 3


def test_a_training_killed_after_any_step_is_resumed_in_its_slice(tmp_path: Path) -> None:
    whole = fresh(dropping, seed=0)
    outcome = run_to_completion(isolated(steps_of(whole, State()), seed=0))
    assert outcome.steps == STEPS
    for taken in range(1, STEPS + 1):
        first, state_of_first = fresh(dropping, seed=0), State()
        steps = isolated(steps_of(first, state_of_first), seed=0, state=state_of_first)
        for _ in range(taken):
            next(steps)
        # As the worker does: there is nothing to save until a function has given a checkpoint, or a slice is over.
        saved = save_training_checkpoint(state_of_first.snapshot(), tmp_path) if state_of_first.step else None
        steps.close()
        second, resumed = fresh(dropping, seed=0), State({} if saved is None else load_training_checkpoint(*saved))
        shown = []
        run_to_completion(isolated(steps_of(second, resumed), seed=0, state=resumed), shown.append)

        assert same(state(second), state(whole)), taken
        assert saved is None or len(shown) == STEPS - state_of_first.step


def steps_of(model: nn.Module, state: State) -> Steps:
    return train_steps(model, SAMPLES, OWN, objective=OBJECTIVE, seed=5, state=state)


def test_slices_follow_the_samples_through_every_set() -> None:
    """Joined with a set that knows none, its samples are learned last."""
    given = sliced(samples(4, seed=1), [0, 1, 2, 3])
    both = joined(given.take(torch.tensor([2, 0])), samples(2, seed=2))

    assert both.slices == (2, 0, 2, 2)
    assert given.to("cpu").convert_targets(lambda targets: targets).in_memory().slices == (0, 1, 2, 3)


@pytest.mark.parametrize("wrong", [[0, 1, -1], [0, 1, 0.5], [0, 1, True], [0, 1]])
def test_slices_are_numbers_one_a_sample(wrong: list[object]) -> None:
    given: SampleSet = samples(3, seed=1)
    with pytest.raises(InvalidWorkload, match=r"position 2|2 slices"):
        replace(given, slices=wrong)
