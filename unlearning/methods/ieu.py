"""IEU: degrade what the weights know of the forget set, decay and disturb them, then repair on the remaining set."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unlearning.gradients import flat_gradient, step_along, trainable
from unlearning.objective import Objective
from unlearning.samples import Batch, SampleSet
from unlearning.specs import IEU
from unlearning.stopping import calibrate, check, until_matched
from unlearning.task import Progress, Steps, Task


def ieu(spec: IEU, task: Task) -> Steps:
    """Unlearn `task.forget` from `task.model`, in place (Tran, Woo, arXiv 2604.09391; the step is [ours], docs/methods.md §3).

    Eliminating phase, until the forget set looks no better known than held-out data or the steps are spent:

        loss = L(B_r; θ) − γ · mean(min(ℓ(B_f; θ), τ)),  θ ← θ − η∇loss,  W ← (1 − ηλ)W + σ·std(W)·ξ

    with τ = log(classes) and W the weights of two or more dimensions. Then γ = σ = 0 under the calibrated stop.
    """
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    criterion = calibrate(task, spec.stop)
    ceiling = _ceiling(task.objective, task.model, task.criterion)
    total = spec.steps + spec.repair_steps
    taken = 0
    for taken in range(1, spec.steps + 1):
        metrics = _eliminate(spec, task, ceiling=ceiling, generator=generator)
        if taken % spec.stop.check_every == 0 and check(criterion, task.model).direction >= 0:
            break
        yield Progress(phase="unlearn", step=taken, total=total, metrics=metrics)

    def repair(number: int) -> Mapping[str, float]:
        return _descend(
            spec, task, task.objective.losses(task.model, task.remain.draw(spec.batch_size, generator)).mean()
        )

    outcome = yield from until_matched(task, criterion, repair, steps=spec.repair_steps, first_step=taken, total=total)
    return outcome


def _eliminate(spec: IEU, task: Task, *, ceiling: float, generator: torch.Generator) -> Mapping[str, float]:
    remaining = task.objective.losses(task.model, task.remain.draw(spec.batch_size, generator)).mean()
    forgotten = (
        task.objective.losses(task.model, task.forget.draw(spec.batch_size, generator)).clamp(max=ceiling).mean()
    )
    metrics = _descend(spec, task, remaining - spec.ascent * forgotten)
    _decay_and_disturb(spec, task, generator)
    return {**metrics, "forget_loss": float(forgotten.detach())}


def _descend(spec: IEU, task: Task, loss: Tensor) -> Mapping[str, float]:
    parameters = trainable(task.model)
    step_along(parameters.values(), flat_gradient(loss, parameters), rate=spec.learning_rate)
    return {"loss": float(loss.detach())}


@torch.no_grad()
def _decay_and_disturb(spec: IEU, task: Task, generator: torch.Generator) -> None:
    for weight in trainable(task.model).values():
        if weight.dim() < 2:
            continue
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.mul_(1 - spec.learning_rate * spec.decay).add_(noise, alpha=spec.noise * float(weight.std()))


@torch.no_grad()
def _ceiling(objective: Objective, model: torch.nn.Module, held_out: SampleSet) -> float:
    """τ: the loss of a guess, log(classes); without classes, twice the held-out loss."""
    if objective.classes is not None:
        return math.log(objective.classes)
    batch: Batch = held_out.batch
    return 2 * float(objective.losses(model, batch).mean())
