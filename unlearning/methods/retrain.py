"""Retrain: the oracle."""

from unlearning.specs import Retrain
from unlearning.task import Outcome, Progress, Steps, Task
from unlearning.training.loop import fresh, train_steps


def retrain(spec: Retrain, task: Task) -> Steps:
    """Put freshly initialised weights into the model and train them on the remaining set by the model's own recipe."""
    task.model.load_state_dict(fresh(task.build, seed=task.seed).state_dict())
    steps = train_steps(
        task.model, task.remain, task.recipe, objective=task.objective, seed=task.seed, state=task.state
    )
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        yield Progress(phase="unlearn", step=progress.step, total=progress.total, metrics=progress.metrics)
