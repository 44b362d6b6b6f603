"""SalUn: train on wrong labels for the forget set, changing only the salient weights."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.gradients import Loss, forward_with, trainable
from unlearning.hardware import in_float32
from unlearning.methods.fixed_schedule import (
    forget_epochs,
    learn_and_forget,
    learn_forget_batch,
    mean_loss,
    rehearse,
    run_schedule,
    wrong_labels,
)
from unlearning.specs import SalUn
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import optimiser_for


def salun(spec: SalUn, task: Task) -> Steps:
    """Unlearn under a saliency mask, in place (Fan et al., ICLR 2024).

    m = 1(|∇ℓ(D_f; θ_o)| ≥ γ) with γ the quantile that leaves `spec.saliency` of all weights (eq. 3), and
    θ = m ⊙ θ' + (1 − m) ⊙ θ_o after every step (eq. 4): a mask on the gradient alone would let momentum and weight decay move the
    other weights. Each epoch trains on D_f with wrong labels drawn anew, then on D_r. Raises MethodRefused without classes.

    A model that generates samples of a class learns instead to predict of x ∈ D_f, as one of its class c, what it predicts of it as
    one of another class c′ (their form for generation), with as many remaining samples in each step:

        loss = L(B_r; θ) + mean ‖ε_θ(x_t | c) − stop[ε_θ(x_t | c′)]‖²
    """
    generator = torch.Generator().manual_seed(task.seed)
    wrong_labels(task, task.forget.targets[:1], torch.Generator())
    task.model.eval()
    masks = saliency_masks(task, share=spec.saliency, batch_size=spec.batch_size)
    originals = {name: p.detach().clone() for name, p in trainable(task.model).items()}
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)

    def generative_steps() -> Iterator[Callable[[], Tensor]]:
        for forget, remain in forget_epochs(task, epochs=spec.epochs, size=spec.batch_size, generator=generator):
            loss = as_other_class(task, forget, wrong_labels(task, forget.targets, generator))
            yield partial(learn_and_forget, task, optimiser, remain, forget, loss=loss, remain_weight=1.0)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for _ in range(spec.epochs):
            for batch in task.forget.epoch(spec.batch_size, generator):
                wrong = Batch(batch.inputs, wrong_labels(task, batch.targets, generator))
                yield partial(learn_forget_batch, task, optimiser, mean_loss(task, wrong), samples=wrong.size)
            for batch in task.remain.epoch(spec.batch_size, generator):
                yield partial(rehearse, task, optimiser, batch)

    generates = task.objective.generation is not None
    taken = generative_steps() if generates else steps()
    masked = (partial(_masked_step, step, task, masks, originals) for step in taken)
    batches = task.forget.batch_count(spec.batch_size)
    if not generates:
        batches += task.remain.batch_count(spec.batch_size)
    return (yield from run_schedule(task, optimiser, masked, total=spec.epochs * batches))


def as_other_class(task: Task, forget: Batch, others: Tensor) -> Loss:
    """Return the mean squared difference of what is predicted of a forget batch and what it would be as of `others`, (n,)."""

    def loss(forward: Forward) -> Tensor:
        generation = task.objective.for_step().generation
        assert generation is not None
        with torch.no_grad():
            aim = generation.predicted(forward, generation.relabelled(forget, others))
        return ((generation.predicted(forward, forget) - aim) ** 2).mean()

    return loss


@in_float32
def saliency_masks(task: Task, *, share: float, batch_size: int) -> dict[str, Tensor]:
    """Mark, by parameter, the `share` of all weights with the largest gradient of the forget set's mean loss; ties are included."""
    parameters = trainable(task.model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    forward = forward_with(task.model, parameters)
    for index in torch.split(torch.arange(len(task.forget)), batch_size):
        loss = task.objective.losses(forward, task.forget.select(index)).sum()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for sums, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                sums += gradient
    magnitudes = torch.cat([sums.abs().flatten() for sums in total.values()])
    threshold = magnitudes.topk(max(1, round(share * len(magnitudes)))).values[-1]
    return {name: sums.abs() >= threshold for name, sums in total.items()}


def _masked_step(
    step: Callable[[], Tensor], task: Task, masks: dict[str, Tensor], originals: dict[str, Tensor]
) -> Tensor:
    """Take a step, put the other weights back to their original values, and return the loss."""
    loss = step()
    with torch.no_grad():
        for name, p in trainable(task.model).items():
            p.copy_(torch.where(masks[name], p, originals[name]))
    return loss
