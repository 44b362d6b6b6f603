"""NPO: treat the forget set as answers that are not preferred to the original model's."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.gradients import Loss
from unlearning.methods.fixed_schedule import learn_and_forget_epochs
from unlearning.networks import frozen_copy
from unlearning.specs import NPO
from unlearning.steps import Steps
from unlearning.task import Task


def npo(spec: NPO, task: Task) -> Steps:
    """Minimise α·L(B_r; θ) − (2/β) mean log σ(−β log(π_θ(y)/π_o(y))) on B_f, in place (Zhang et al., COLM 2024, arXiv 2404.05868).

    That is eq. 3 with the paper's retain loss (NPO+RT). log π is minus the loss, of a whole sequence: its mean a token times its
    tokens. π_o is the original model.
    """
    original = frozen_copy(task.model)

    return (
        yield from learn_and_forget_epochs(
            spec, task, loss=partial(_loss, spec, task, original), remain_weight=spec.remain_weight
        )
    )


def _loss(spec: NPO, task: Task, original: nn.Module, forget: Batch) -> Loss:
    """Return the preference loss of a forget batch as a function of the forward pass."""
    lengths = task.objective.lengths

    def loss(forward: Forward) -> Tensor:
        objective = task.objective.for_step()
        with torch.no_grad():
            before = objective.losses(original, forget)
        raised = objective.losses(forward, forget) - before
        if lengths is not None:
            raised = raised * lengths(forget.targets)
        return -2 / spec.beta * functional.logsigmoid(spec.beta * raised).mean()

    return loss
