"""Objectives: what a model is trained for, as functions. Methods and audits know the modality only through these."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.samples import Batch

Forward = Callable[[Tensor], Tensor]
"""A model's forward pass, or the same with other parameters passed in (`torch.func.functional_call`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a model is trained for.

    losses: returns the loss of each sample, (n,), nats, differentiable. scramble: returns the same inputs with targets drawn at
    random, the true one not excluded. logits: returns (n, classes), for classifiers; if it is None, methods and audits that need
    logits refuse.
    classes: the number of classes, or None.
    """

    losses: Callable[[Forward, Batch], Tensor]
    scramble: Callable[[Batch, torch.Generator], Batch]
    logits: Callable[[Forward, Tensor], Tensor] | None = None
    classes: int | None = None


def classification(classes: int) -> Objective:
    """Make the objective of a classifier: cross-entropy over `classes`, with targets (n,) int64 and a model that outputs logits."""

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")

    def logits(forward: Forward, inputs: Tensor) -> Tensor:
        return forward(inputs)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        targets = torch.randint(classes, batch.targets.shape, generator=generator)
        return Batch(batch.inputs, targets.to(batch.targets.device))

    return Objective(losses=losses, scramble=scramble, logits=logits, classes=classes)
