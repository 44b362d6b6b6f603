"""An objective that notes what a method is taught."""

import dataclasses

import torch
from torch import Tensor

from tests.unlearning.small import OBJECTIVE
from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward, Objective
from unlearning.data.samples import SampleSet

Seen = list[Batch]


def watching(seen: Seen) -> Objective:
    """The usual objective; every batch whose loss is differentiated is added to `seen`."""

    def losses(forward: Forward, batch: Batch) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(batch)
        return OBJECTIVE.losses(forward, batch)

    return dataclasses.replace(OBJECTIVE, losses=losses)


def places(batch: Batch, samples: SampleSet) -> Tensor:
    """Where in `samples` each of the batch's inputs stands, (n,), or −1."""
    same = (batch.inputs[:, None] == samples.inputs[None]).all(-1)
    return torch.where(same.any(1), same.int().argmax(1), -1)


def without_classes() -> Objective:
    """The usual objective for a model that gives no logits."""
    return dataclasses.replace(OBJECTIVE, logits=None, classes=None)
