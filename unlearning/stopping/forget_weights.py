"""How hard each forget sample is still to be pushed: a floor for losses that have none of their own [ours]."""

from math import log

import torch
from torch import Tensor

from unlearning.data.samples import Batch
from unlearning.precision import in_float32
from unlearning.stopping.criterion import Criterion, of_classes, weighted_quantiles
from unlearning.task import Task

_FULL = 0.5
"""Nats of loss below its aim from which on a sample is pushed with full weight."""


@in_float32
@torch.no_grad()
def push(task: Task, criterion: Criterion, forget: Batch, *, held_out: Tensor, aim: float = 1.0) -> Tensor:
    """The shortfall of a batch of forget samples, (n,), as the model is now.

    Those of a class that is forgotten as a whole fall short of a guess, whose loss no right answer has.
    held_out: losses of the criterion's held-out samples, (m,), nats: those of the latest check, or those before the first step.
    """
    losses = task.objective.losses(task.model, forget)
    going = of_classes(criterion.gone, forget.targets)
    needs = torch.empty_like(losses)
    # A resumed run's check comes from the checkpoint's device.
    needs[~going] = shortfall(losses[~going], held_out.to(losses), criterion.weights, aim=aim)
    needs[going] = shortfall(losses[going], *_guess(criterion, losses), aim=aim)
    return needs


def _guess(criterion: Criterion, losses: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a guess, log(classes) nats, as a held-out set of one sample, (1,), with its weight, (1,).

    Without classes no sample is measured by it.
    """
    return losses.new_tensor([log(criterion.objective.classes or 1)]), losses.new_ones(1)


def shortfall(losses: Tensor, held_out: Tensor, weights: Tensor, *, aim: float = 1.0) -> Tensor:
    """A weight for each forget sample, (n,), from 0 (as unknown as held-out data) to 1.

    losses: of the forget samples, (n,), nats. held_out: of held-out samples, (m,), nats; weights: (m,), summing to 1, that give
    these the forget set's mix of classes. aim: what the held-out losses are multiplied by.

    The two are matched by rank. A model is wrong about a few samples that it never saw and right about most, so the few forget
    samples nearest to being lost are pushed, as far as the worst held-out ones, and the rest hardly. To push all alike
    leaves all half-known: their mean then matches, and no other statistic.
    """
    rank = (losses.argsort().argsort() + 0.5) / len(losses)
    return ((aim * weighted_quantiles(held_out, weights, rank) - losses) / _FULL).clamp(0, 1)
