"""SimNPO: NPO without a reference model, by a sequence's mean loss a token."""

from functools import partial

from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.gradients import Loss
from unlearning.methods.fixed_schedule import learn_and_forget_epochs
from unlearning.specs import SimNPO
from unlearning.steps import Steps
from unlearning.task import Task


def sim_npo(spec: SimNPO, task: Task) -> Steps:
    """Minimise α·L(B_r; θ) − (2/β) mean log σ(−(β/|y|) log π_θ(y) − γ) on B_f, in place (Fan et al., arXiv 2410.07163, eq. 4).

    −log π_θ(y)/|y| is the mean loss a token, which is the loss of a sample.
    """
    return (
        yield from learn_and_forget_epochs(
            spec, task, loss=partial(_loss, spec, task), remain_weight=spec.remain_weight
        )
    )


def _loss(spec: SimNPO, task: Task, forget: Batch) -> Loss:
    """Return the preference loss of a forget batch as a function of the forward pass."""

    def loss(forward: Forward) -> Tensor:
        losses = task.objective.for_step().losses(forward, forget)
        return -2 / spec.beta * functional.logsigmoid(spec.beta * losses - spec.margin).mean()

    return loss
