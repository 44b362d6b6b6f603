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


def answers(objective: Objective, forward: Forward, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Compute each sample's loss, (n,), and logits, (n, classes) or None without logits, in one forward pass.

    An objective that does not call `forward` exactly once for each of the two is given a pass for each.
    """
    if objective.logits is None:
        return objective.losses(forward, batch), None
    outputs: list[Tensor] = []

    def record(inputs: Tensor) -> Tensor:
        outputs.append(forward(inputs))
        return outputs[-1]

    logits = objective.logits(record, batch.inputs)
    if len(outputs) != 1:
        return objective.losses(forward, batch), logits
    calls: list[None] = []

    def replay(inputs: Tensor) -> Tensor:
        calls.append(None)
        return outputs[0]

    losses = objective.losses(replay, batch)
    return (losses if len(calls) == 1 else objective.losses(forward, batch)), logits
