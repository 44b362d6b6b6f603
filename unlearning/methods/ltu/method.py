"""LTU's loop: remembering and forgetting feedback, harmonised, under the calibrated stop."""

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from unlearning import ranks
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.methods.aims import RemainingLosses, reference_aims, remaining_losses
from unlearning.methods.ltu.feedback import ForgetBatch, combine, forgetting_feedback, remembering_feedback
from unlearning.methods.ltu.guide_attacks import non_member_signal, train_guide_attacks
from unlearning.methods.ltu.queries import neighbourhood
from unlearning.specs import LTU
from unlearning.specs.methods import scale_schedule
from unlearning.steps import Figures, Steps
from unlearning.stopping.criterion import Check, calibrate
from unlearning.stopping.forget_weights import forget_weights
from unlearning.stopping.stop import Rate, run_with_stop
from unlearning.task import Task
from unlearning.training.optimisation import (
    anneal,
    apply_gradient,
    batch_statistics,
    minimise,
    optimiser_for,
    share_left,
    update_running_statistics,
)

_REHEARSAL_RATE = 0.5
"""The learning rate of a rehearsal as a share of LTU's own."""


def ltu(spec: LTU, task: Task) -> Steps:
    """Unlearn `task.forget` from `task.model`, in place (Huang, Foo, Liu, ECCV 2024, arXiv 2407.10494; docs/methods.md §1).

    Each step computes both gradients on a forget batch, harmonises them (`feedback.harmonise`) and takes one step; rehearsals
    on remaining data follow [ours]. With reference predictions each forget sample aims at its own [ours]. The outcome's metric
    `guide_attacks` counts those that beat chance. Raises MethodRefused if an objective without `scramble` has no references either.
    """
    if spec.remembering and task.references is None and task.objective.scramble is None:
        raise MethodRefused(
            "LTU trains on random targets; this objective offers no `scramble`. Give it one, prepare reference predictions, or use "
            "IEU."
        )
    spec = scale_schedule(spec, forget=len(task.forget))
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    seconds: dict[str, float] = {}

    started = time.perf_counter()
    count = max(spec.remain_least, round(spec.remain_share * len(task.remain)))
    remain = task.remain.take(torch.randperm(len(task.remain), generator=generator)[:count])
    near = neighbourhood(task.model, task.objective, forget=task.forget, remain=remain)
    seconds["neighbour_search"] = time.perf_counter() - started

    started = time.perf_counter()
    attacks = train_guide_attacks(task, remain, count=spec.attackers, guide=spec.guide) if spec.forgetting else ()
    seconds["guides"] = time.perf_counter() - started
    if len(attacks) < 2 and not spec.remembering:
        raise MethodRefused("Fewer than two guide attacks beat chance, so nothing is left to unlearn with.")

    aims = reference_aims(task)
    criterion = calibrate(task, spec.stop, guide_signals=[non_member_signal(attack) for attack in attacks])

    remaining = remaining_losses(task, None)
    optimiser, rehearsing = (
        optimiser_for(task.model, task.objective, rate=share * spec.learning_rate) for share in (1.0, _REHEARSAL_RATE)
    )
    rate = Rate()
    task.state.register(model=task.model, optimiser=optimiser, rehearsing=rehearsing, generator=generator, rate=rate)

    def step(number: int, latest: Check) -> Mapping[str, float]:
        if number == 1:
            optimiser.state.clear()  # the momentum of a run at a higher rate
            rehearsing.state.clear()
        left = share_left(number, steps=spec.steps, repair_steps=spec.repair_steps)
        anneal(rehearsing, share_left=left, factor=rate.factor)
        if number > spec.steps:
            return Figures(loss=_rehearse(spec, remaining, remain, rehearsing, generator))
        anneal(optimiser, share_left=left, factor=rate.factor)
        index = torch.randperm(len(task.forget), generator=generator)[: spec.batch_size]
        batch = task.forget.select(index)
        if aims is None:
            aim = 1 + spec.overshoot if 2 * number <= spec.steps else 1.0
            weights = forget_weights(task, criterion, batch, held_out_losses=latest.held_out_losses, aim=aim)
        else:
            weights = aims.forget_weights(task.model, batch, index)
        # A small batch counts by its size: a single sample with the weight of a full batch would overshoot its aim by far.
        weights = weights * min(1.0, len(index) / spec.batch_size)
        forget = ForgetBatch(batch, index, weights)
        with batch_statistics(task.model, samples=len(index)):
            remembering = (
                remembering_feedback(spec, task, near, remaining, forget, generator, aims) if spec.remembering else None
            )
            guided = len(attacks) >= 2 and (bool(ranks.agreed(bool(weights.any()))) or remembering is None)
            forgetting = forgetting_feedback(spec, task, attacks, forget, generator) if guided else None
        apply_gradient(optimiser, combine(spec, forgetting, remembering, number))
        for _ in range(rehearsal_count(spec, latest)):
            _rehearse(spec, remaining, remain, rehearsing, generator)
        update_running_statistics(task.model, task.objective, remain.draw(2 * spec.query_size, generator))
        return Figures(forget_weight=weights.mean())

    outcome = yield from run_with_stop(
        task,
        criterion,
        step,
        steps=spec.steps,
        repair_steps=spec.repair_steps if spec.remembering else 0,
        anneals=spec.remembering,
        rate=rate,
    )
    return replace(outcome, setup_seconds=seconds, metrics={**outcome.metrics, "guide_attacks": float(len(attacks))})


def rehearsal_count(spec: LTU, latest: Check) -> int:
    """Return how many rehearsals follow a check: the spec's number times the share of the allowed drop that is used up, at most 1.

    Needless ones teach the forget set again.
    """
    if not spec.remembering:
        return 0
    return round(spec.rehearsals * min(1.0, latest.drop / max(spec.stop.allowed_drop, 1e-6)))


def _rehearse(
    spec: LTU,
    remaining: RemainingLosses,
    remain: SampleSet,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> Tensor:
    """Take one plain step on remaining data and return the loss.

    The optimiser is not LTU's own, whose momentum would carry the step on in LTU's direction.
    """
    loss = remaining.mean_of_model(remain.draw(spec.query_size, generator))
    return minimise(remaining.task.model, optimiser, loss, max_gradient_norm=spec.clip)
