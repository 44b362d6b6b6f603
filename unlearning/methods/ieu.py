"""IEU: raise the loss of the forget set, decay the weights and add noise to them, then repair on the remaining set."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.gradients import forward_with, trainable
from unlearning.hardware import batched_answers
from unlearning.methods.aims import ReferenceAims, RemainingLosses, matching_loss, reference_aims, remaining_losses
from unlearning.sharding import gathered, local, part_like
from unlearning.specs import IEU
from unlearning.specs.methods import scale_schedule
from unlearning.state import Loop
from unlearning.steps import Figures, Outcome, Progress, Steps
from unlearning.stopping.criterion import Check, Criterion, calibrate, check
from unlearning.stopping.forget_weights import forget_weights
from unlearning.stopping.stop import original_of, run_with_stop
from unlearning.task import Task
from unlearning.training.optimisation import (
    anneal,
    batch_statistics,
    minimise,
    optimiser_for,
    optimiser_towards_aims,
    share_left,
    update_running_statistics,
)

_ASCENT_SHARE = 0.375
"""The share of the repair in which what is relearned of the forget set is raised again."""
_REPAIR_ASCENT = 0.5
"""The weight of the ascent there, in units of γ: with the whole of γ samples overshoot their aim by far."""

_AIMED_SHARE, _GENERATOR_SHARE = 0.25, 0.4
"""The shares of the schedule that are taken towards aims, which need no check and no search: by Muon, and for image generators by
Adam [ours]."""


def ieu(spec: IEU, task: Task) -> Steps:
    """Unlearn `task.forget` from `task.model`, in place (Tran, Woo, arXiv 2604.09391; the step is [ours], docs/methods.md §3).

    The eliminating phase lasts until the forget set looks no better known than held-out data, or all its steps are taken:

        loss = L(B_r; θ) − γ · mean(w · min(ℓ(B_f; θ), τ)),  θ ← θ − η∇loss,  W ← (1 − ηλ)W + σ·std(W)·ξ

    with L the mean of `remaining_losses`, τ = log(classes) (else `Objective.ceiling`), W the weights of two or more dimensions, and
    w the forget weights against held-out losses before the first step (`unlearning.stopping.forget_weights`). Adam takes steps of
    a fiftieth of η (`optimiser_for`). The repair follows under the calibrated stop, with σ = 0: at first with γ/2 and w against
    held-out losses at the latest check, so that what is relearned is raised again; then with γ = 0. While more than half of the
    allowed drop is used up, up to as many repair steps again follow.

    With reference predictions q each sample's ascent is bounded by its own, from both sides, and nothing is checked. A quarter of
    the steps is taken, by Muon (for image generators two fifths, by Adam):

        loss = L(B_r; θ) + 2γ · mean KL(q ‖ p_θ(B_f)),  W ← (1 − ηλ)W + σ·std(W)·ξ in the eliminating phase alone
    """
    spec = scale_schedule(spec, forget=len(task.forget))
    task.model.eval()
    aims = reference_aims(task)
    if aims is not None:
        return (yield from _bounded_by_references(spec, task, aims.sharpened()))
    generator = torch.Generator().manual_seed(task.seed)
    criterion = calibrate(task, spec.stop)
    ceiling = _ceiling(task.objective, task.model, task.criterion)
    remaining = remaining_losses(task, None)
    optimiser = optimiser_for(task.model, task.objective, rate=spec.learning_rate)
    total = spec.steps + spec.repair_steps
    eliminating = Loop(spec.steps)
    noise = _noise_generator(task, generator)
    original = original_of(task, criterion)
    task.state.register(
        model=task.model, optimiser=optimiser, generator=generator, noise=noise, eliminating=eliminating
    )
    for taken in eliminating:
        metrics = _eliminate(
            spec, task, optimiser, criterion, remaining, ceiling=ceiling, generator=generator, noise=noise
        )
        if taken % spec.stop.check_every == 0 and check(criterion, task.model).direction >= 0:
            eliminating.end()
            break
        yield Progress(phase="unlearn", step=taken, total=total, metrics=metrics)

    def repair(number: int, latest: Check) -> Mapping[str, float]:
        left = share_left(number, steps=spec.repair_steps, repair_steps=spec.repair_steps)
        anneal(optimiser, share_left=left)
        loss = remaining.mean_of_model(task.remain.draw(spec.batch_size, generator))
        if number <= _ASCENT_SHARE * spec.repair_steps:
            forget = task.forget.draw(spec.batch_size, generator)
            weights = forget_weights(task, criterion, forget, held_out_losses=latest.held_out_losses)
            loss = loss - _REPAIR_ASCENT * spec.ascent * (weights * _bounded_losses(task, forget, ceiling)).mean()
        return Figures(loss=minimise(task.model, optimiser, loss, max_gradient_norm=spec.clip))

    return (
        yield from run_with_stop(
            task,
            criterion,
            repair,
            steps=spec.repair_steps,
            repair_steps=spec.repair_steps,
            anneals=True,
            original=original,
            first_step=eliminating.done,
            total=total,
        )
    )


def _bounded_by_references(spec: IEU, task: Task, aims: ReferenceAims) -> Steps:
    generator = torch.Generator().manual_seed(task.seed)
    noise = _noise_generator(task, generator)
    remaining = remaining_losses(task, aims)
    optimiser = optimiser_towards_aims(task.model, task.objective, rate=spec.learning_rate)
    share = _AIMED_SHARE if task.objective.generation is None else _GENERATOR_SHARE
    eliminating, repairing = (max(1, round(share * n)) for n in (spec.steps, spec.repair_steps))
    total = eliminating + repairing

    def step(number: int) -> Tensor:
        left = share_left(number, steps=total, repair_steps=0)
        anneal(optimiser, share_left=left)
        index = torch.randperm(len(task.forget), generator=generator)[: spec.batch_size]
        remain = task.remain.draw(spec.batch_size, generator)
        loss = matching_loss(task, aims, index, remain, remaining=remaining, weight=2 * spec.ascent)
        value = minimise(task.model, optimiser, loss, max_gradient_norm=spec.clip)
        update_running_statistics(task.model, task.objective, remain)
        if number <= eliminating:
            _decay_and_disturb(spec, task, noise)
        return value

    loop = Loop(total)
    task.state.register(model=task.model, optimiser=optimiser, generator=generator, noise=noise, loop=loop)
    for number in loop:
        yield Progress(phase="unlearn", step=number, total=total, metrics=Figures(loss=step(number)))
    return Outcome(steps=total, stopped_because="completed")


def _eliminate(
    spec: IEU,
    task: Task,
    optimiser: torch.optim.Optimizer,
    criterion: Criterion,
    remaining: RemainingLosses,
    *,
    ceiling: float,
    generator: torch.Generator,
    noise: torch.Generator,
) -> Mapping[str, float]:
    """Take one step of the eliminating phase."""
    remain, forget = (samples.draw(spec.batch_size, generator) for samples in (task.remain, task.forget))
    # The original held-out losses: noise and decay raise the present ones with each step, and the forget set would overshoot them.
    weights = forget_weights(task, criterion, forget, held_out_losses=criterion.original_losses)
    ascent = spec.ascent * (weights * _bounded_losses(task, forget, ceiling)).mean()
    loss = minimise(task.model, optimiser, remaining.mean_of_model(remain) - ascent, max_gradient_norm=spec.clip)
    _decay_and_disturb(spec, task, noise)
    return Figures(loss=loss, forget_weight=weights.mean())


def _bounded_losses(task: Task, forget: Batch, ceiling: float) -> Tensor:
    """Compute min(ℓ(B_f; θ), τ), (n,), through a copy of the buffers: forget samples must not enter batch norm's statistics."""
    with batch_statistics(task.model, samples=forget.size):
        forward = forward_with(task.model, trainable(task.model))
        return task.objective.for_step().losses(forward, forget).clamp(max=ceiling)


@torch.no_grad()
def _decay_and_disturb(spec: IEU, task: Task, generator: torch.Generator) -> None:
    """Update W ← (1 − ηλ)W + σ·std(W)·ξ, ξ ~ N(0, I), for weights of two or more dimensions."""
    for weight in trainable(task.model).values():
        if weight.dim() < 2:
            continue
        noise = torch.randn(weight.shape, generator=generator, device=generator.device).to(weight.device, weight.dtype)
        scale = spec.noise * gathered(weight).std(correction=0)
        local(weight).mul_(1 - spec.learning_rate * spec.decay).addcmul_(local(part_like(noise, weight)), scale)


def _noise_generator(task: Task, generator: torch.Generator) -> torch.Generator:
    """Return the method's generator, or one on the GPU: as many numbers as weights take a CPU longer than a GPU's whole step."""
    device = task.forget.device
    return generator if device.type == "cpu" else torch.Generator(device).manual_seed(task.seed)


def _ceiling(objective: Objective, model: torch.nn.Module, held_out: SampleSet) -> float:
    """Compute τ, nats: what the objective names, for classes the loss of a guess; else twice the held-out loss."""
    named = objective.highest_loss()
    if named is not None:
        return named
    return 2 * float(batched_answers(objective, model, held_out).losses.mean())
