"""IEU: degrade what the weights know of the forget set, decay and disturb them, then repair on the remaining set."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unlearning.data.objectives import Objective
from unlearning.data.samples import Batch, SampleSet
from unlearning.gradients import anneal, batch_statistics, descent, follow_loss, forward_with, share_left, trainable
from unlearning.inference import in_pieces
from unlearning.specs import IEU
from unlearning.specs.methods import lengthened
from unlearning.state import Loop
from unlearning.stopping.criterion import Check, Criterion, calibrate, check
from unlearning.stopping.forget_weights import push
from unlearning.stopping.stop import until_matched
from unlearning.task import Progress, Steps, Task

_PUSHED = 0.375
"""The share of the repair in which what comes back is pushed."""
_PUSH = 0.5
"""The weight of the ascent there, in units of γ: with the whole of it samples are pushed far beyond their aim."""


def ieu(spec: IEU, task: Task) -> Steps:
    """Unlearn `task.forget` from `task.model`, in place (Tran, Woo, arXiv 2604.09391; the step is [ours], docs/methods.md §3).

    Eliminating phase, until the forget set looks no better known than held-out data or the steps are spent:

        loss = L(B_r; θ) − γ · mean(w · min(ℓ(B_f; θ), τ)),  θ ← θ − η∇loss,  W ← (1 − ηλ)W + σ·std(W)·ξ

    with τ = log(classes), W the weights of two or more dimensions, and w what each forget sample falls short of held-out data of
    its rank, before the first step (`unlearning.stopping.forget_weights`). Then repair under the calibrated stop, with σ = 0: at
    first with γ/2, and held-out data as they are at the latest check, so that what comes back is pushed again; then γ = 0.
    While more than half of the allowed drop is used up the repair goes on, for as long again.
    """
    spec = lengthened(spec, forget=len(task.forget))
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    criterion = calibrate(task, spec.stop)
    ceiling = _ceiling(task.objective, task.model, task.criterion)
    optimiser = descent(task.model, rate=spec.learning_rate)
    total = spec.steps + spec.repair_steps
    eliminating = Loop(spec.steps)
    task.state.keep(model=task.model, optimiser=optimiser, generator=generator, eliminating=eliminating)
    for taken in eliminating:
        metrics = _eliminate(spec, task, optimiser, criterion, ceiling=ceiling, generator=generator)
        if taken % spec.stop.check_every == 0 and check(criterion, task.model).direction >= 0:
            eliminating.end()
            break
        yield Progress(phase="unlearn", step=taken, total=total, metrics=metrics)

    def repair(number: int, last: Check) -> Mapping[str, float]:
        left = share_left(number, steps=spec.repair_steps, repair_steps=spec.repair_steps)
        anneal(optimiser, rate=spec.learning_rate, share_left=left)
        loss = _remaining(task, task.remain.draw(spec.batch_size, generator))
        if number <= _PUSHED * spec.repair_steps:
            forget = task.forget.draw(spec.batch_size, generator)
            needs = push(task, criterion, forget, held_out=last.held_out_losses)
            loss = loss - _PUSH * spec.ascent * (needs * _bounded(task, forget, ceiling)).mean()
        return {"loss": follow_loss(task.model, optimiser, loss, longest=spec.clip)}

    return (
        yield from until_matched(
            task,
            criterion,
            repair,
            steps=spec.repair_steps,
            repair_steps=spec.repair_steps,
            anneals=True,
            first_step=eliminating.done,
            total=total,
        )
    )


def _eliminate(
    spec: IEU,
    task: Task,
    optimiser: torch.optim.SGD,
    criterion: Criterion,
    *,
    ceiling: float,
    generator: torch.Generator,
) -> Mapping[str, float]:
    remain, forget = (samples.draw(spec.batch_size, generator) for samples in (task.remain, task.forget))
    # Held-out data as they were: noise and decay worsen them by the step, and aims that moved with them would be passed by far.
    needs = push(task, criterion, forget, held_out=criterion.held_out_losses)
    forgotten = (needs * _bounded(task, forget, ceiling)).mean()
    loss = follow_loss(task.model, optimiser, _remaining(task, remain) - spec.ascent * forgotten, longest=spec.clip)
    _decay_and_disturb(spec, task, generator)
    return {"loss": loss, "push": float(needs.mean())}


def _remaining(task: Task, remain: Batch) -> Tensor:
    """L(B_r; θ), a scalar; batch norm's running statistics follow."""
    with batch_statistics(task.model, samples=len(remain.targets)):
        return task.objective.losses(task.model, remain).mean()


def _bounded(task: Task, forget: Batch, ceiling: float) -> Tensor:
    """min(ℓ(B_f; θ), τ), (n,), through a copy of the buffers: the forget set must not move batch norm's statistics."""
    with batch_statistics(task.model, samples=len(forget.targets)):
        return task.objective.losses(forward_with(task.model, trainable(task.model)), forget).clamp(max=ceiling)


@torch.no_grad()
def _decay_and_disturb(spec: IEU, task: Task, generator: torch.Generator) -> None:
    for weight in trainable(task.model).values():
        if weight.dim() < 2:
            continue
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.mul_(1 - spec.learning_rate * spec.decay).add_(noise, alpha=spec.noise * float(weight.std(correction=0)))


@torch.no_grad()
def _ceiling(objective: Objective, model: torch.nn.Module, held_out: SampleSet) -> float:
    """τ: the loss of a guess, log(classes); without classes, twice the held-out loss."""
    if objective.classes is not None:
        return math.log(objective.classes)
    batch: Batch = held_out.batch
    return 2 * float(objective.losses(in_pieces(model), batch).mean())
