"""The forget weight of each forget sample: how much of its loss is still to be raised [ours].

The losses that drive forgetting (random labels, membership attacks, ascent) have no floor of their own. A weight that falls to 0
once a sample's loss reaches its aim gives them one.
"""

from math import log

import torch
from torch import Tensor

from unlearning.data.batches import Batch
from unlearning.hardware import in_float32
from unlearning.stopping.criterion import Criterion, as_set, in_classes, weighted_quantiles
from unlearning.task import Task


@in_float32
@torch.no_grad()
def forget_weights(
    task: Task, criterion: Criterion, forget: Batch, *, held_out_losses: Tensor, aim: float = 1.0
) -> Tensor:
    """Compute the weights of a batch of forget samples, (n,), 0 to 1, through the model as it is now.

    held_out_losses: of the criterion's held-out samples, (m,), nats, at the latest check or before the first step. aim: what they
    are multiplied by. Samples of a fully forgotten class aim at the loss of a guess, which no right answer has (`_guess`).
    """
    losses = task.objective.losses(task.model, forget).float()
    # In a resumed run the latest check comes from the training checkpoint, which is read to the CPU.
    held_out_losses, gap = held_out_losses.to(losses), task.objective.gap
    if not criterion.whole_classes:
        return loss_gap_weights(losses, held_out_losses, criterion.weights, aim=aim, gap=gap)
    of_class = in_classes(forget.targets, criterion.forgotten_classes)
    weights = torch.empty_like(losses)
    weights[~of_class] = loss_gap_weights(losses[~of_class], held_out_losses, criterion.weights, aim=aim, gap=gap)
    weights[of_class] = loss_gap_weights(losses[of_class], *_guess(criterion, losses), aim=aim, gap=gap)
    return weights


def loss_gap_weights(
    losses: Tensor, held_out: Tensor, held_out_weights: Tensor, *, aim: float = 1.0, gap: float = 0.5
) -> Tensor:
    """Compute each forget sample's weight, (n,), from its loss gap to held-out data of its rank: 0 without one, 1 from `gap` nats.

    losses: of the forget samples, (n,), nats. held_out: losses of held-out samples, (m,), nats. held_out_weights: (m,), summing
    to 1, that give these the forget set's class mix. aim: what the held-out losses are multiplied by.

    The two are matched by rank, because a model is wrong about a few samples that it never saw and right about most. So the few
    forget samples with the highest losses are raised as far as the worst held-out ones, and most are hardly raised. Raising all
    alike would leave all half-known: the mean loss would match, and no other statistic.
    """
    rank = (losses.argsort().argsort() + 0.5) / len(losses)
    return weights_of_gaps(aim * weighted_quantiles(held_out, held_out_weights, rank) - losses, full=gap)


def weights_of_gaps(gaps: Tensor, *, full: float) -> Tensor:
    """Compute forget weights, (n,): clip(gap / full, 0, 1), a gap being how far a loss is below its aim, (n,), nats."""
    return (gaps / full).clamp(0, 1)


def _guess(criterion: Criterion, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return what samples of a fully forgotten class aim at, (m,), nats, with its weights, (m,), as if it were a held-out set.

    It is the loss of a guess, log(classes), or what the original model says of them as of another class.
    """
    if criterion.other_class_losses is not None:
        return as_set(criterion.other_class_losses.to(losses))
    return losses.new_tensor([log(criterion.objective.classes or 1)]), losses.new_ones(1)
