"""Rewind: go back to weights that never saw the forget set, and train from there on what remains."""

from unlearning.errors import MethodRefused, WeightsError
from unlearning.methods.retrain import train_on_remaining
from unlearning.specs import Rewind
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.slices import replayed_share


def rewind(spec: Rewind, task: Task) -> Steps:
    """Load the weights before the first slice that has forget samples, and train the slices from there on without them.

    With the same seed this gives the weights of Retrain, if the kept weights came from that seed too.
    Raises MethodRefused where no such weights were kept, or where the rest is more than `max_share` of the whole training.
    """
    if task.remain.slices is None:
        raise MethodRefused(
            "The model was not trained in slices, so there are no weights from before the forgotten samples. Give the training "
            "set `slices` and train it by `expunge train`, or use Retrain."
        )
    if task.checkpoint is None:
        raise MethodRefused(
            "No weights were kept from before the first slice with a forgotten sample, of a training on the samples that remain of "
            "the slices up to it. Use Retrain, which keeps new ones."
        )
    share = replayed_share(task.remain, after=task.checkpoint.number)
    if share > spec.max_share:
        raise MethodRefused(
            f"{share:.0%} of the training would have to be repeated after slice {task.checkpoint.number}; max_share allows "
            f"{spec.max_share:.0%}."
        )
    try:
        task.checkpoint.load(task.model)
    except WeightsError as error:
        raise MethodRefused(f"The weights kept after slice {task.checkpoint.number} cannot be used: {error}") from error
    return (yield from train_on_remaining(task, after=task.checkpoint.number))
