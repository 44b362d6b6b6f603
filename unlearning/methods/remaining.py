"""What methods minimise on remaining samples, so that what the model knows of them stays (docs/methods.md §5) [ours]."""

from dataclasses import dataclass

from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.gradients import Loss
from unlearning.networks import frozen_copy
from unlearning.task import Task
from unlearning.training.optimisation import batch_statistics


@dataclass(frozen=True, slots=True, eq=False)
class RemainingLosses:
    """The losses of a task's remaining samples; see `remaining_losses`.

    original: the model that a generator's predictions are compared with; None where the objective's own loss serves.
    """

    task: Task
    original: nn.Module | None

    def __call__(self, forward: Forward, batch: Batch) -> Tensor:
        """Compute the loss of each sample, (n,), nats, with noise drawn anew where the objective has any."""
        objective = self.task.objective.for_step()
        if self.original is None or objective.generation is None:
            return objective.losses(forward, batch)
        return objective.generation.moved(forward, self.original, batch)

    def mean(self, batch: Batch) -> Loss:
        """Return the mean loss of a batch, a scalar, as a function of the forward pass."""
        return lambda forward: self(forward, batch).mean()

    def mean_of_model(self, batch: Batch) -> Tensor:
        """Compute the mean loss of a batch, a scalar, by the task's model; batch norm's running statistics are updated."""
        with batch_statistics(self.task.model, samples=batch.size):
            return self.mean(batch)(self.task.model)


def remaining_losses(task: Task) -> RemainingLosses:
    """Return the losses of remaining samples. Call it before the first step: the model is still the original.

    For image generators they are the distance from what the original predicts (`Generation.moved`), else the objective's own loss.
    A generator's own loss stays far from 0, as most of the noise cannot be known, so the gradient of a batch is mostly chance.
    That of the distance is 0 until the model moves, but for rounding and batch norm. It costs a copy of the model.
    """
    return RemainingLosses(task, None if task.objective.generation is None else frozen_copy(task.model))
