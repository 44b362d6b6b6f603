"""Try the owner's training function on a few samples, for two reports: what will not work is found before the first job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining
from unlearning.random_state import isolated
from unlearning.state import State
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.training.loop import train_steps
from unlearning.training.own import check_model, state_of
from unlearning.training.run import TrainingRun

REPORTS = 2
"""Reports after which the function is asked to stop."""

_SILENT = (
    "It reports nothing: its progress cannot be shown, its jobs cannot be cancelled, and one that takes longer than "
    "EXPUNGE_STALL_UNLEARN_SECONDS counts as stalled. Call `run.report` in each step."
)
_BY_CHANCE = (
    "Two trainings by the same seed gave different weights. Draw everything by `run.seed`; otherwise an interrupted training does "
    "not end in the weights of one that was not."
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainerCheck:
    """What is tried. build: makes the model to train, in the same way each time. folder: for files."""

    training: OwnTraining
    build: Callable[[], nn.Module]
    samples: SampleSet
    objective: Objective
    folder: Path
    seed: int


def check_trainer(given: TrainerCheck) -> tuple[str, ...]:
    """Train twice by the same seed, and once more from a checkpoint if the function has kept one.

    Returns what works, but less well than it could, a few sentences each. Raises what the function raises, and what `check_model`
    and `own_steps` do.
    """
    first, again = (_train(given, resumed={}) for _ in range(2))
    if first.checkpoint:
        _train(given, resumed=first.checkpoint)
    notes = [] if first.reported else [_SILENT]
    if any(not torch.equal(tensor, again.weights[name]) for name, tensor in first.weights.items()):
        notes.append(_BY_CHANCE)
    return tuple(notes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trained:
    weights: dict[str, Tensor]
    reported: bool
    checkpoint: Mapping[str, Any]


def _train(given: TrainerCheck, *, resumed: Mapping[str, Any]) -> _Trained:
    runs: list[TrainingRun] = []
    stop = False

    def observed(model: nn.Module, data: SampleSet, run: TrainingRun) -> object:
        runs.append(run)
        return given.training.trainer(model, data, run)

    model, state = given.build(), State(resumed, should_stop=lambda: stop)
    before, saved = state_of(model), dict[str, Any]()
    training = replace(given.training, trainer=observed)
    steps = train_steps(model, given.samples, training, objective=given.objective, seed=given.seed, state=state)
    steps = isolated(steps, seed=given.seed, state=state)
    try:
        for _ in range(REPORTS):
            if next(steps, None) is None:
                break
            if state.step:
                saved = load_training_checkpoint(*save_training_checkpoint(state.snapshot(), given.folder))
        stop = True
        next(steps, None)
    finally:
        steps.close()
    check_model(model, before, finished=False)
    return _Trained(weights=model.state_dict(), reported=runs[0].step > 0, checkpoint=saved)
