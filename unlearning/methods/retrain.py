"""Retrain: train anew without the forget set."""

from dataclasses import replace

from unlearning.specs import Retrain
from unlearning.steps import Steps, map_progress
from unlearning.task import Task
from unlearning.training.loop import fresh, train_steps


def retrain(spec: Retrain, task: Task) -> Steps:
    """Put freshly initialised weights into the model and train it on the remaining set as it was trained.

    What training does not move, such as a frozen pretrained backbone, stays as it is.
    """
    task.model.load_state_dict(fresh(task.build, seed=task.seed, original=task.model).state_dict())
    return (yield from train_on_remaining(task))


def train_on_remaining(task: Task, *, after: int | None = None) -> Steps:
    """Train the task's model on the remaining set as it was trained; of slices, on those after the one with this number."""
    steps = train_steps(
        task.model,
        task.remain,
        task.recipe,
        objective=task.objective,
        seed=task.seed,
        state=task.state,
        after=after,
        keep=task.keep_slice,
    )
    return (yield from map_progress(steps, lambda progress: replace(progress, phase="unlearn")))
