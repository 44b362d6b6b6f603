"""What a model is trained for, as functions: methods and audits see the modality only through these."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.samples import Batch

Forward = Callable[[Tensor], Tensor]
"""A model's forward pass, or the same with other parameters put in (`torch.func.functional_call`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """losses: the loss of each sample, (n,), differentiable.
    scramble: the same inputs with targets that carry nothing about them, drawn at random (the true one is not excluded).
    logits: (n, classes), for classifiers; None where there are no classes, and methods that need them refuse.
    classes: how many, or None.
    """

    losses: Callable[[Forward, Batch], Tensor]
    scramble: Callable[[Batch, torch.Generator], Batch]
    logits: Callable[[Forward, Tensor], Tensor] | None = None
    classes: int | None = None


def classification(classes: int) -> Objective:
    """Cross-entropy over `classes`, targets (n,) int64; the model gives logits (n, classes)."""

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")

    def logits(forward: Forward, inputs: Tensor) -> Tensor:
        return forward(inputs)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        targets = torch.randint(classes, batch.targets.shape, generator=generator)
        return Batch(batch.inputs, targets.to(batch.targets.device))

    return Objective(losses=losses, scramble=scramble, logits=logits, classes=classes)
