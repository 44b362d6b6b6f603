"""SimNPO: NPO without a reference model, by a sequence's mean loss a token."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.gradients import Loss, trainable
from unlearning.methods.fixed_schedule import forget_epochs, learn_and_forget, run_schedule
from unlearning.specs import SimNPO
from unlearning.steps import Steps
from unlearning.task import Task


def sim_npo(spec: SimNPO, task: Task) -> Steps:
    """Minimise α·L(B_r; θ) − (2/β) mean log σ(−(β/|y|) log π_θ(y) − γ) on B_f, in place (Fan et al., arXiv 2410.07163, eq. 4).

    −log π_θ(y)/|y| is the mean loss a token, which is the loss of a sample.
    """
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = torch.optim.AdamW(trainable(task.model).values(), lr=spec.learning_rate)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for forget, remain in forget_epochs(task, epochs=spec.epochs, size=spec.batch_size, generator=generator):
            yield partial(
                learn_and_forget,
                task,
                optimiser,
                remain,
                forget,
                loss=_loss(spec, task, forget),
                remain_weight=spec.remain_weight,
            )

    total = spec.epochs * task.forget.batch_count(spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps(), total=total))


def _loss(spec: SimNPO, task: Task, forget: Batch) -> Loss:
    """Return the preference loss of a forget batch as a function of the forward pass."""

    def loss(forward: Forward) -> Tensor:
        losses = task.objective.for_step().losses(forward, forget)
        return -2 / spec.beta * functional.logsigmoid(spec.beta * losses - spec.margin).mean()

    return loss
