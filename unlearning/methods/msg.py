"""Masked small gradients (MSG): draw the weights with the smallest gradients anew, then fine-tune on the remaining set."""

from itertools import islice

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.gradients import forward_with, trainable
from unlearning.hardware import in_float32
from unlearning.methods.fixed_schedule import rehearse_epochs
from unlearning.networks import kernels
from unlearning.specs import MSG
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import sgd


def msg(spec: MSG, task: Task) -> Steps:
    """Draw weights anew, then train on D_r, in place (Cadet et al., arXiv 2410.01276).

    With S ⊂ D_r about as large as D_f and g = ∇[L(S) − L(D_f)], the share `spec.redrawn` of each layer with the smallest |g|
    is drawn anew, from N(0, 2 / fan-out). While the model trains on D_r, the gradient of the weights that were kept counts
    `spec.kept_gradient` times. The learning rate rises linearly, epoch by epoch, and then falls.
    """
    generator = torch.Generator().manual_seed(task.seed)
    task.model.eval()
    drawn = redraw(small_gradients(task, spec, generator), generator)
    optimiser = sgd(task.model, rate=spec.learning_rate)  # Adam's steps would not follow the scale of a gradient

    def scale(*_: object) -> None:
        for p, anew in drawn.items():
            if p.grad is not None:
                p.grad *= torch.where(anew, 1.0, spec.kept_gradient)

    optimiser.register_step_pre_hook(scale)
    shares = rise_and_fall(spec.epochs)
    return (yield from rehearse_epochs(task, optimiser, generator, shares=shares, size=spec.batch_size))


def rise_and_fall(epochs: int) -> list[float]:
    """Return the share of the learning rate in each epoch: up to 1 over the first half, then down by equal steps, never to 0."""
    top = (epochs + 1) // 2
    return [
        number / top if number <= top else (epochs + 1 - number) / (epochs + 1 - top) for number in range(1, epochs + 1)
    ]


@in_float32
def small_gradients(task: Task, spec: MSG, generator: torch.Generator) -> dict[nn.Parameter, Tensor]:
    """Mark, in the weights of each convolution, the share with the smallest gradients; without convolutions in all matrices.

    S is the first batches of an epoch of D_r, as many as D_f has.
    """
    parameters = trainable(task.model)
    weights = kernels(task.model) or [p for p in task.model.parameters() if p.requires_grad and p.ndim > 1]
    total = {p: torch.zeros_like(p, requires_grad=False) for p in weights}

    def add(batch: Batch, *, weight: float) -> None:
        loss = weight * task.objective.losses(forward_with(task.model, parameters), batch).sum()
        gradients = torch.autograd.grad(loss, list(total), allow_unused=True)
        for sums, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                sums += gradient

    for index in task.forget.chunks(spec.batch_size):
        add(task.forget.select(index), weight=-1 / len(task.forget))
    some = list(islice(task.remain.epoch(spec.batch_size, generator), len(task.forget.chunks(spec.batch_size))))
    for batch in some:
        add(batch, weight=1 / sum(one.size for one in some))
    return {p: _smallest(sums.abs(), share=spec.redrawn) for p, sums in total.items()}


def _smallest(values: Tensor, *, share: float) -> Tensor:
    """Mark the share of the values that is the smallest; of equal ones, those that come first."""
    marked = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    marked[values.flatten().argsort(stable=True)[: round(share * values.numel())]] = True
    return marked.view(values.shape)


@torch.no_grad()
def redraw(marked: dict[nn.Parameter, Tensor], generator: torch.Generator) -> dict[nn.Parameter, Tensor]:
    """Draw the marked weights anew, in place, from N(0, 2 / fan-out), and return the marks."""
    for p, anew in marked.items():
        fresh = torch.empty(p.shape, dtype=torch.float32)
        nn.init.kaiming_normal_(fresh, mode="fan_out", nonlinearity="relu", generator=generator)
        p.copy_(torch.where(anew, fresh.to(p), p))
    return marked
