"""LTU's loop: remembering and forgetting feedback, harmonised, under the calibrated stop."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.objectives import Forward
from unlearning.data.samples import Batch, SampleSet
from unlearning.errors import MethodRefused
from unlearning.gradients import (
    Loss,
    anneal,
    batch_statistics,
    clipped,
    descent,
    follow,
    follow_loss,
    follow_statistics,
    share_left,
)
from unlearning.methods.ltu.guide_attacks import Guide, member_signal, train_guides
from unlearning.methods.ltu.meta import harmonise, meta_gradient
from unlearning.methods.ltu.queries import Neighbourhood, neighbourhood, query_sets
from unlearning.specs import LTU
from unlearning.specs.methods import lengthened
from unlearning.stopping.criterion import Check, calibrate
from unlearning.stopping.forget_weights import push
from unlearning.stopping.stop import until_matched
from unlearning.task import Steps, Task
from unlearning.training.loop import mean_loss

_REHEARSING = 0.5
"""The rate of a rehearsing step as a share of LTU's own."""


def ltu(spec: LTU, task: Task) -> Steps:
    """Unlearn `task.forget` from `task.model`, in place. Raises MethodRefused where the objective has no logits."""
    logits = task.objective.logits
    if logits is None:
        raise MethodRefused(
            "LTU is guided by membership models that read logits; this objective has none. Use IEU or Retrain."
        )
    spec = lengthened(spec, forget=len(task.forget))
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    seconds: dict[str, float] = {}

    started = time.perf_counter()
    count = max(spec.remain_least, round(spec.remain_share * len(task.remain)))
    remain = task.remain.take(torch.randperm(len(task.remain), generator=generator)[:count])
    near = neighbourhood(task.model, task.objective, forget=task.forget, remain=remain)
    seconds["neighbour_search"] = time.perf_counter() - started

    started = time.perf_counter()
    guides = train_guides(task, remain.batch, count=spec.attackers) if spec.forgetting else ()
    seconds["guides"] = time.perf_counter() - started
    if len(guides) < 2 and not spec.remembering:
        raise MethodRefused("Fewer than two guiding membership models beat chance, so nothing is left to unlearn with.")

    criterion = calibrate(task, spec.stop, guides=[member_signal(guide, logits) for guide in guides])

    optimiser = descent(task.model, rate=spec.learning_rate)
    rehearsing = descent(task.model, rate=spec.learning_rate * _REHEARSING)
    task.state.keep(model=task.model, optimiser=optimiser, rehearsing=rehearsing, generator=generator)

    def step(number: int, last: Check) -> Mapping[str, float]:
        left = share_left(number, steps=spec.steps, repair_steps=spec.repair_steps)
        anneal(rehearsing, rate=spec.learning_rate * _REHEARSING, share_left=left)
        if number > spec.steps:
            return {"loss": _rehearse(spec, task, remain, rehearsing, generator)}
        anneal(optimiser, rate=spec.learning_rate, share_left=left)
        index = torch.randperm(len(task.forget), generator=generator)[: spec.batch_size]
        forget = task.forget.select(index)
        aim = 1 + spec.overshoot if 2 * number <= spec.steps else 1.0
        needs = push(task, criterion, forget, held_out=last.held_out_losses, aim=aim)
        # A few count as they would in a full batch: alone, one sample would be pushed with the force of all, and far past its aim.
        needs = needs * min(1.0, len(index) / spec.batch_size)
        with batch_statistics(task.model, samples=len(index)):
            remembering = _remembering(spec, task, near, index, forget, needs, generator) if spec.remembering else None
            guided = len(guides) >= 2 and (bool(needs.any()) or remembering is None)
            forgetting = _forgetting(spec, task, guides, forget, needs, generator) if guided else None
        follow(optimiser, _combine(spec, forgetting, remembering, number))
        for _ in range(_rehearsals(spec, last)):
            _rehearse(spec, task, remain, rehearsing, generator)
        follow_statistics(task.model, remain.draw(2 * spec.query_size, generator).inputs)
        return {"push": float(needs.mean())}

    seconds["guides_used"] = float(len(guides))
    return (
        yield from until_matched(
            task,
            criterion,
            step,
            steps=spec.steps,
            repair_steps=spec.repair_steps if spec.remembering else 0,
            anneals=spec.remembering,
            setup_seconds=seconds,
        )
    )


def _remembering(
    spec: LTU,
    task: Task,
    near: Neighbourhood,
    index: Tensor,
    forget: Batch,
    needs: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """g_r: tuned on random labels for the forget batch, tested on three sets of remaining data with their true labels."""
    scrambled = task.objective.scramble(forget, generator)
    queries = query_sets(near, index, forget.targets, size=spec.query_size, generator=generator)
    gradient = meta_gradient(
        task.model,
        support=lambda forward: (needs * task.objective.losses(forward, scrambled)).mean(),
        queries=[mean_loss(task, query) for query in queries],
        inner_rate=spec.inner_rate,
        order=spec.order,
        support_weight=spec.scramble_weight,
        meta=spec.meta,
    )
    return clipped(gradient, spec.clip)


def _forgetting(
    spec: LTU, task: Task, guides: Sequence[Guide], forget: Batch, needs: Tensor, generator: torch.Generator
) -> Tensor:
    """g_f: one random guide is the support, another the query; both are to say "non-member" of the forget batch."""
    first, second = torch.randperm(len(guides), generator=generator)[:2].tolist()
    gradient = meta_gradient(
        task.model,
        support=_non_member(task, guides[first], forget, needs),
        queries=[_non_member(task, guides[second], forget, needs)],
        inner_rate=spec.inner_rate,
        order=spec.order,
        meta=spec.meta,
    )
    return spec.forgetting_weight * clipped(gradient, spec.clip)


def _combine(spec: LTU, forgetting: Tensor | None, remembering: Tensor | None, number: int) -> Tensor:
    if forgetting is None or remembering is None:
        only = forgetting if remembering is None else remembering
        assert only is not None
        return only
    match spec.combine:
        case "harmonise":
            return remembering + harmonise(forgetting, remembering)
        case "sum":
            return remembering + forgetting
        case "alternate":
            return forgetting if number % 2 else remembering


def _non_member(task: Task, guide: Guide, batch: Batch, needs: Tensor) -> Loss:
    logits = task.objective.logits
    assert logits is not None

    def loss(forward: Forward) -> Tensor:
        member = guide.member_logit(logits(forward, batch.inputs), batch.targets)
        return (needs * functional.softplus(member)).mean()

    return loss


def _rehearsals(spec: LTU, last: Check) -> int:
    """As many as the share of the allowed drop that is used up: rehearsed without need, the forget set comes back."""
    if not spec.remembering:
        return 0
    return round(spec.rehearsals * min(1.0, last.drop / max(spec.stop.allowed_drop, 1e-6)))


def _rehearse(
    spec: LTU, task: Task, remain: SampleSet, optimiser: torch.optim.SGD, generator: torch.Generator
) -> float:
    """One plain step on remaining data. Its optimiser is its own: LTU's momentum would carry it on in LTU's direction."""
    batch = remain.draw(spec.query_size, generator)
    with batch_statistics(task.model, samples=len(batch.targets)):
        loss = task.objective.losses(task.model, batch).mean()
    return follow_loss(task.model, optimiser, loss, longest=spec.clip)
