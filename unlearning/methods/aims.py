"""What each forget sample should be answered with after unlearning: its reference prediction (docs/methods.md §8) [ours]."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, joined_batch, sent
from unlearning.data.objectives import Forward, Objective, answers
from unlearning.gradients import forward_with, trainable
from unlearning.hardware import in_float32
from unlearning.stopping.criterion import fully_forgotten_classes
from unlearning.stopping.forget_weights import weights_of_gaps
from unlearning.task import Task
from unlearning.training.optimisation import batch_statistics


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceAims:
    """Aims of n forget samples. probabilities: (n, classes), or None without classes. losses: (n,), nats, of the true target."""

    probabilities: Tensor | None
    losses: Tensor

    def divergences(self, logits: Tensor | None, losses: Tensor, index: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Compute how far a batch's answers are from its aims, (k,): KL(aim ‖ answer) in nats, or the squared difference of losses.

        logits: (k, classes), or None. losses: (k,), nats. index: the positions of the samples in the forget set, (k,) int64.
        temperature: T, by which the logits of both are divided; times T², so that gradients keep their scale (Hinton et al., 2015).
        """
        places = sent(index, self.losses.device)
        if self.probabilities is None or logits is None:
            return (losses - self.losses[places]) ** 2
        aim = self.probabilities[places].to(logits)
        if temperature != 1:
            aim = (aim.log() / temperature).softmax(-1)
        divergence = functional.kl_div((logits / temperature).log_softmax(-1), aim, reduction="none").sum(-1)
        return temperature**2 * divergence

    def batch_divergences(self, objective: Objective, forward: Forward, batch: Batch, index: Tensor) -> Tensor:
        """Compute `divergences` of a batch of forget samples in one forward pass."""
        found = answers(objective, forward, batch)
        return self.divergences(found.logits, found.losses, index)

    @in_float32
    @torch.no_grad()
    def forget_weights(self, objective: Objective, forward: Forward, batch: Batch, index: Tensor) -> Tensor:
        """Compute clip((ℓ_ref − ℓ) / 0.5, 0, 1), (k,), 0 to 1, from each sample's own reference loss ℓ_ref."""
        aims = self.losses[sent(index, self.losses.device)]
        return weights_of_gaps(aims - objective.losses(forward, batch).float())


def reference_aims(task: Task) -> ReferenceAims | None:
    """Read the forget set's aims from the task's references; None where the task has none.

    A model that saw other samples of a class knows the class. Where a class is fully forgotten, its probability is therefore taken
    out of its samples' aims and the rest is scaled up to 1: a retrained model never gives the class.
    """
    references = task.references
    if references is None:
        return None
    losses = references.losses.to(task.forget.device)
    if references.predictions.shape[1] == 0:
        return ReferenceAims(probabilities=None, losses=losses)
    probabilities = references.predictions.to(losses.device, copy=True)
    gone = fully_forgotten_classes(task.forget, task.remain, classes=task.objective.classes)
    if gone is not None and bool(gone.any()):
        of_gone = gone[task.forget.targets]
        probabilities[of_gone] = probabilities[of_gone].masked_fill(gone, 0.0)
        losses = torch.where(of_gone, losses.new_full((), 10.0), losses)
    probabilities = probabilities.clamp(min=1e-6)
    return ReferenceAims(probabilities=probabilities / probabilities.sum(-1, keepdim=True), losses=losses)


def matching_loss(
    task: Task,
    aims: ReferenceAims,
    index: Tensor,
    remain: Batch,
    *,
    weight: float = 1.0,
    temperatures: Sequence[float] = (1.0,),
) -> Tensor:
    """Compute L(B_r; θ) + w · mean KL(q ‖ p_θ(B_f)), a scalar, in one forward pass.

    index: the positions of B_f in the forget set, (k,). temperatures: the mean over them is taken of the divergence. The pass goes
    through a copy of the buffers, because forget samples must leave no trace in batch norm's running statistics.
    """
    forget = task.forget.select(index)
    k = len(index)
    with batch_statistics(task.model, samples=k + remain.size):
        forward = forward_with(task.model, trainable(task.model))
        found = answers(task.objective, forward, joined_batch(forget, remain))
    logits, losses = None if found.logits is None else found.logits[:k], found.losses[:k]
    divergences = [aims.divergences(logits, losses, index, temperature=value).mean() for value in temperatures]
    return found.losses[k:].mean() + weight * torch.stack(divergences).mean()
