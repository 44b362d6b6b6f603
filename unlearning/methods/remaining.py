"""What methods minimise on remaining samples, so that what the model knows of them stays (docs/methods.md §8) [ours]."""

from dataclasses import dataclass

from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.networks import copy_network
from unlearning.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class RemainingLosses:
    """The loss of each remaining sample, (n,), as a function of the forward pass; see `remaining_losses`."""

    task: Task
    original: nn.Module | None

    def __call__(self, forward: Forward, batch: Batch) -> Tensor:
        """Compute the losses of a batch, with noise drawn anew where the objective has any."""
        objective = self.task.objective.for_step()
        if self.original is None or objective.generation is None:
            return objective.losses(forward, batch)
        return objective.generation.moved(forward, self.original, batch)


def remaining_losses(task: Task) -> RemainingLosses:
    """Return the losses of remaining samples. Call it before the first step: the model is still the original.

    For image generators they are the distance from what the original predicts, KL of normal laws, else the objective's own loss.
    A generator's own loss stays far from 0, as most of the noise cannot be known, so the gradient of a batch is mostly chance.
    That of the distance is 0 until the model moves, but for rounding and batch norm. It costs a copy of the model.
    """
    return RemainingLosses(task, None if task.objective.generation is None else _frozen(task.model))


def _frozen(model: nn.Module) -> nn.Module:
    return copy_network(model).eval().requires_grad_(False)
