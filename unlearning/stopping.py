"""The calibrated stop: when has a method done enough, without a retrained model to compare with (docs/methods.md §4).

A forgotten sample should look like a held-out one: not like a member, and not worse than a non-member either. Only D_f, D̂_r and the
criterion's part of D_v are looked at; never the evaluating attack, never the test set.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.objective import Forward, Objective
from unlearning.precision import in_float32
from unlearning.probe import lasting
from unlearning.quantiles import weighted_quantiles
from unlearning.samples import Batch, SampleSet
from unlearning.specs import Stop
from unlearning.task import Outcome, Progress, Steps, Task

Signal = Callable[[Forward, Batch], Tensor]
"""A number a sample, (n,), that is higher for data the model does not know."""

_QUANTILES = (0.25, 0.5, 0.75, 0.9)
_PATIENCE = 3
_CACHED_REMAINING = 512
_SETTLED = 0.75
"""Share of an annealed schedule after which its states count: before it the rate is high, and accuracy is still to come back."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Check:
    """One look at the model.

    score: root mean square of the standardised differences between forget and held-out statistics; 0 is a perfect match.
    direction: their mean; below 0 the forget set still looks known, above 0 it stands out as unusually unknown.
    drop: points of accuracy lost beyond what one standard error explains, the larger of remaining and held-out data
        (without classes: hundredths of a nat of loss gained).
    held_out_losses: (m,), nats: what the forget samples' losses should come to look like.
    """

    score: float
    direction: float
    drop: float
    held_out_losses: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Criterion:
    """What every check compares with, fixed before the first step.

    weights: (m,), summing to 1, that give the held-out set the forget set's mix of classes. held_out_losses: (m,), nats, of the
        model as it was given.
    signals: what is compared. kept: the held-out data on which the utility is watched, the criterion's part and the guide's.
    right_before: the merit, in points, of each remaining and each kept sample then, (r,) and (k,).
    """

    stop: Stop
    objective: Objective
    forget: Batch
    remain: Batch
    held_out: Batch
    weights: Tensor
    held_out_losses: Tensor
    signals: tuple[Signal, ...]
    kept: tuple[Batch, Batch]
    right_before: tuple[Tensor, Tensor]


@in_float32
@torch.no_grad()
def calibrate(task: Task, stop: Stop, *, guides: Sequence[Signal] = ()) -> Criterion:
    """Fix the criterion on the model as it is now, with loss, entropy and error rate, and the guiding models' scores if given."""
    generator = torch.Generator().manual_seed(task.seed)
    remain = task.remain.draw(_CACHED_REMAINING, generator)
    held_out = task.criterion.batch
    kept = held_out, task.guide.batch
    forward = _once(task.model)
    return Criterion(
        stop=stop,
        objective=task.objective,
        forget=task.forget.batch,
        remain=remain,
        held_out=held_out,
        weights=_matching_weights(task.forget, task.criterion, task.objective),
        held_out_losses=task.objective.losses(forward, held_out),
        signals=(task.objective.losses, *_entropy(task.objective), *guides),
        kept=kept,
        right_before=(_merit(task.objective, forward, remain), _merit(task.objective, forward, *kept)),
    )


@in_float32
@torch.no_grad()
def check(criterion: Criterion, model: nn.Module) -> Check:
    """Compare the forget set with the held-out set, and the utility with the original's."""
    forward = _once(model)
    differences = [
        difference
        for signal in criterion.signals
        for difference in _quantile_differences(
            signal(forward, criterion.forget), signal(forward, criterion.held_out), criterion.weights
        )
    ]
    if criterion.objective.logits is not None:
        differences.append(_error_difference(criterion, forward))
    pairs = zip(criterion.right_before, ((criterion.remain,), criterion.kept), strict=True)
    drops = (_drop(before, _merit(criterion.objective, forward, *batches)) for before, batches in pairs)
    return Check(
        score=sqrt(sum(d * d for d in differences) / len(differences)),
        direction=sum(differences) / len(differences),
        drop=max(drops),
        held_out_losses=criterion.objective.losses(forward, criterion.held_out),
    )


def matched(criterion: Criterion, found: Check) -> bool:
    """Whether the forget set looks held out and the utility is kept."""
    return found.score <= criterion.stop.tolerance and found.drop <= criterion.stop.allowed_drop


def until_matched(
    task: Task,
    criterion: Criterion,
    step: Callable[[int, Check], Mapping[str, float]],
    *,
    steps: int,
    repair_steps: int = 0,
    anneals: bool = False,
    first_step: int = 0,
    total: int | None = None,
    setup_seconds: Mapping[str, float] | None = None,
) -> Steps:
    """Take steps until the criterion is met, the utility is lost, or the budget is spent; leave the best state seen.

    `step` is given its number, from 1, and the latest check.
    Ends with "utility" after three checks in a row beyond the allowed drop and not recovering, or at the first weight that is
    not finite. A method that `anneals` trains on remaining data as it goes and takes its whole schedule:
    it recovers from a drop, and only the last quarter's states count. Up to `repair_steps` follow, numbered on, for as long as a
    check finds more than half of the allowed drop used up.
    `first_step` and `total` place these steps within a longer run's progress.
    """
    found = check(criterion, task.model)
    track = _Track(best=copy.deepcopy(task.model.state_dict()), best_check=found, found=found)
    task.state.keep(stop=track)
    try:
        while track.taken < _due(criterion, track, steps, repair_steps) and not track.ended:
            track.taken += 1
            metrics = step(track.taken, track.found)
            if not track.taken % criterion.stop.check_every or track.taken in (steps, steps + repair_steps):
                settled = not anneals or track.taken > _SETTLED * steps
                _judge(task, criterion, track, check(criterion, task.model), anneals=anneals, settled=settled)
                metrics = {**metrics, **_shown(track.found)}
            yield Progress(
                phase="unlearn", step=first_step + track.taken, total=total or steps + repair_steps, metrics=metrics
            )
    finally:
        task.model.load_state_dict(track.best)
    return Outcome(
        steps=first_step + track.taken,
        stopped_because=track.ended or "budget",
        setup_seconds=setup_seconds or {},
        metrics=_shown(track.best_check),
    )


def _due(criterion: Criterion, track: "_Track", steps: int, repair_steps: int) -> int:
    """How many steps there are to take as things stand: those of a repair too, where more than half of the allowed drop is used."""
    return steps + repair_steps if track.found.drop > criterion.stop.allowed_drop / 2 else steps


@dataclass(slots=True, eq=False)
class _Track:
    """Where a run under the stop is; all of it is part of a checkpoint.

    best: the best state seen, with its check. found: the latest check. losing: checks in a row that lost utility. ended: why, once.
    """

    best: dict[str, Tensor]
    best_check: Check
    found: Check
    taken: int = 0
    losing: int = 0
    ended: str = ""

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("best", "taken", "losing", "ended")},
            **{name: asdict(getattr(self, name)) for name in ("best_check", "found")},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, Check(**value) if name in ("best_check", "found") else value)


def _judge(task: Task, criterion: Criterion, track: _Track, found: Check, *, anneals: bool, settled: bool) -> None:
    """Keep the state if it is the best that counts so far, and say whether what was found ends the run."""
    if settled and _rank(criterion, found) < _rank(criterion, track.best_check):
        track.best, track.best_check = copy.deepcopy(task.model.state_dict()), found
    losing = found.drop > criterion.stop.allowed_drop and found.drop >= track.found.drop
    track.losing, track.found = track.losing + 1 if losing else 0, found
    if not anneals and matched(criterion, found) and lasting(task, stop=criterion.stop):
        track.ended = "matched"
    elif (track.losing >= _PATIENCE and not anneals) or not _finite(task.model):
        track.ended = "utility"


def _rank(criterion: Criterion, found: Check) -> tuple[float, float]:
    """What "best" means: the utility within what is allowed; then the mismatch beyond the tolerance plus the share of the allowed
    drop that is used up, squared. A perfect match that costs the whole allowance is no better than one standard error more.
    """
    stop = criterion.stop
    used = found.drop / max(stop.allowed_drop, 1e-6)
    return max(0.0, used - 1), max(0.0, found.score - stop.tolerance) + used**2


def _once(model: nn.Module) -> Forward:
    """The model's forward pass, each set computed once however many signals read it: the passes are what a check costs."""
    answers: dict[int, Tensor] = {}

    def forward(inputs: Tensor) -> Tensor:
        # By identity: the sets outlive the check, and comparing their values would cost as much as the pass.
        if id(inputs) not in answers:
            answers[id(inputs)] = model(inputs)
        return answers[id(inputs)]

    return forward


def _shown(found: Check) -> dict[str, float]:
    return {"match_score": found.score, "match_direction": found.direction, "accuracy_drop": found.drop}


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())


def _entropy(objective: Objective) -> tuple[Signal, ...]:
    logits = objective.logits
    if logits is None:
        return ()

    def entropy(forward: Forward, batch: Batch) -> Tensor:
        log_p = logits(forward, batch.inputs).log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    return (entropy,)


def _matching_weights(forget: SampleSet, held_out: SampleSet, objective: Objective) -> Tensor:
    """Weights (m,), summing to 1, that give the held-out set the forget set's mix of classes."""
    if objective.classes is None:
        return torch.full((len(held_out),), 1 / len(held_out), device=held_out.inputs.device)
    wanted = torch.bincount(forget.targets, minlength=objective.classes).float()
    present = torch.bincount(held_out.targets, minlength=objective.classes).float()
    weights = (wanted / present.clamp(min=1))[held_out.targets]
    if not bool(weights.sum() > 0):
        weights = torch.ones_like(weights)
    return weights / weights.sum()


def _quantile_differences(forget: Tensor, held_out: Tensor, weights: Tensor) -> list[float]:
    """Share of the forget set above each held-out quantile, minus what it would be if both were alike, in standard errors.

    A share of k in n is binomial, so its standard error is known in closed form: sqrt(q(1 − q)(1/n_f + 1/n_v)).
    """
    spread = 1 / len(forget) + float((weights**2).sum())
    thresholds = weighted_quantiles(held_out, weights, weights.new_tensor(_QUANTILES))
    result = []
    for q, threshold in zip(_QUANTILES, thresholds, strict=True):
        # Ties count half on both sides: confident models give many samples the same loss, and an indicator has only two values.
        share = float(_above(forget, threshold).mean())
        expected = float((_above(held_out, threshold) * weights).sum())
        result.append((share - expected) / sqrt(q * (1 - q) * spread))
    return result


def _above(values: Tensor, threshold: Tensor) -> Tensor:
    """(n,): 1 above the threshold, 1/2 at it, 0 below."""
    return (values > threshold).float() + 0.5 * (values == threshold).float()


def _error_difference(criterion: Criterion, forward: Forward) -> float:
    wrong_forget = _wrong(criterion.objective, forward, criterion.forget)
    wrong_held_out = _wrong(criterion.objective, forward, criterion.held_out)
    n = len(wrong_forget)
    expected = float((wrong_held_out * criterion.weights).sum())
    pooled = (float(wrong_forget.sum()) + expected * n + 1) / (2 * n + 2)
    spread = 1 / n + float((criterion.weights**2).sum())
    return (float(wrong_forget.mean()) - expected) / sqrt(max(pooled * (1 - pooled), 1e-6) * spread)


def _drop(before: Tensor, after: Tensor) -> float:
    """What was lost of a merit (n,), less one standard error of the paired difference: a few samples always turn."""
    lost = before - after
    return max(0.0, float(lost.mean() - lost.std(correction=0) / sqrt(len(lost))))


@torch.no_grad()
def _merit(objective: Objective, forward: Forward, *batches: Batch) -> Tensor:
    """(n,), in points: 100 where the sample is classified rightly; without classes, minus 100 times its loss."""
    if objective.logits is None:
        return torch.cat([-100 * objective.losses(forward, batch) for batch in batches])
    return torch.cat([100 - 100 * _wrong(objective, forward, batch) for batch in batches])


def _wrong(objective: Objective, forward: Forward, batch: Batch) -> Tensor:
    assert objective.logits is not None
    return (objective.logits(forward, batch.inputs).argmax(-1) != batch.targets).float()
