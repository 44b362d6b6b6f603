"""Quantiles of samples that do not count alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Forward, Objective
from unlearning.data.samples import Batch, SampleSet
from unlearning.inference import in_pieces
from unlearning.precision import in_float32
from unlearning.specs import Stop
from unlearning.task import Task


def weighted_quantiles(values: Tensor, weights: Tensor, shares: Tensor) -> Tensor:
    """For each share the least of `values` at or below which that share of the weight lies, (k,), in their unit.

    values, weights: (m,), the weights summing to 1. shares: (k,), from 0 to 1. The inverse of the weighted empirical distribution
    function, NumPy's "inverted_cdf".
    """
    order = values.argsort()
    mass = weights[order].cumsum(0)
    return values[order][torch.searchsorted(mass, shares).clamp(max=len(values) - 1)]


_GONE = 0.1
"""A class of which the remaining set keeps less than this share is forgotten as a whole."""


def gone_classes(forget: SampleSet, remain: SampleSet, *, classes: int | None) -> Tensor | None:
    """(classes,) bool: those of which less than a tenth remains. None where there are no classes."""
    if classes is None:
        return None
    forgotten, kept = (torch.bincount(samples.targets, minlength=classes) for samples in (forget, remain))
    return kept < _GONE * (forgotten + kept)


def of_classes(chosen: Tensor | None, targets: Tensor) -> Tensor:
    """(n,) bool: which samples are of these classes, (classes,) bool; none of them where there are no classes."""
    return torch.zeros(len(targets), dtype=torch.bool, device=targets.device) if chosen is None else chosen[targets]


Signal = Callable[[Forward, Batch], Tensor]
"""A number a sample, (n,), that is higher for data the model does not know."""

_QUANTILES = (0.25, 0.5, 0.75, 0.9)
"""Of the held-out set's values: where the forget set's distribution is compared with it."""
_CACHED_REMAINING = 512
"""Most remaining samples on which the utility is watched: each check passes them through the model."""
_LEARNING_CURVE = -1 / 3
"""The power of the amount of data with which a model's error falls [ours]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Check:
    """One look at the model.

    score: root mean square of the standardised differences between forget and held-out statistics; 0 is a perfect match.
    direction: their mean; below 0 the forget set still looks known, above 0 it stands out as unusually unknown.
    drop: points of accuracy lost beyond what one standard error explains, the larger of remaining and held-out data; of the latter
        beyond what a model trained on so much less data would lack, too (without classes: hundredths of a nat of loss gained).
    held_out_losses: (m,), nats: what the forget samples' losses should come to look like.
    """

    score: float
    direction: float
    drop: float
    held_out_losses: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Criterion:
    """What every check compares with, fixed before the first step.

    Where a class is forgotten as a whole, held-out data of it are no measure of anything: the model as given knows them, and a
    retrained one would not. The forget samples of such a class are to be answered wrongly, and its held-out ones may be.

    gone: (classes,) bool, the classes forgotten as a whole; None without classes. going: the forget samples of these.
    forget: the others, which are compared with the held-out set.
    weights: (m,), summing to 1, that give the held-out set the mix of classes of `forget`. held_out_losses: (m,), nats, of the
        model as it was given.
    signals: what is compared. kept: the held-out data on which the utility is watched, the criterion's part and the guide's.
    right_before: the merit, in points, of each remaining and each kept sample then, (r,) and (k,).
    lacking: the merit, in points, that a model trained without the forget set is expected to lack on held-out data.
    """

    stop: Stop
    objective: Objective
    gone: Tensor | None
    going: Batch
    forget: Batch
    remain: Batch
    held_out: Batch
    weights: Tensor
    held_out_losses: Tensor
    signals: tuple[Signal, ...]
    kept: tuple[Batch, ...]
    right_before: tuple[Tensor, Tensor]
    lacking: float


@in_float32
@torch.no_grad()
def calibrate(task: Task, stop: Stop, *, guides: Sequence[Signal] = ()) -> Criterion:
    """Fix the criterion on the model as it is now, with loss, entropy and error rate, and the guiding models' scores if given."""
    # Of a stream of its own: from the method's own these would be the very samples that it rehearses first, or alone.
    generator = torch.Generator().manual_seed(-task.seed - 1)
    remain = task.remain.draw(_CACHED_REMAINING, generator)
    held_out = task.criterion.batch
    gone = gone_classes(task.forget, task.remain, classes=task.objective.classes)
    going = of_classes(gone, task.forget.targets)
    kept = tuple(_only(samples.batch, ~of_classes(gone, samples.targets)) for samples in (task.criterion, task.guide))
    forget = task.forget.take((~going).nonzero().flatten())
    forward = _once(task.model)
    kept_before = _merit(task.objective, forward, *kept)
    return Criterion(
        stop=stop,
        objective=task.objective,
        gone=gone,
        going=_only(task.forget.batch, going),
        forget=forget.batch,
        remain=remain,
        held_out=held_out,
        weights=_matching_weights(forget, task.criterion, task.objective),
        held_out_losses=task.objective.losses(forward, held_out),
        signals=(task.objective.losses, *_entropy(task.objective), *guides),
        kept=kept,
        right_before=(_merit(task.objective, forward, remain), kept_before),
        lacking=_lacking(task.objective, kept_before, share=len(task.remain) / (len(task.remain) + len(forget))),
    )


@in_float32
@torch.no_grad()
def check(criterion: Criterion, model: nn.Module) -> Check:
    """Compare the forget set with the held-out set, and the utility with the original's."""
    forward = _once(model)
    differences: list[float] = []
    if len(criterion.forget.targets):
        for signal in criterion.signals:
            forget, held_out = signal(forward, criterion.forget), signal(forward, criterion.held_out)
            differences += _quantile_differences(forget, held_out, criterion.weights)
        if criterion.objective.logits is not None:
            differences.append(_error_difference(criterion, forward))
    if len(criterion.going.targets):
        differences.append(_error_shortfall(criterion, forward))
    remain_before, kept_before = criterion.right_before
    remain_drop = _drop(remain_before, _merit(criterion.objective, forward, criterion.remain))
    kept_drop = _drop(kept_before, _merit(criterion.objective, forward, *criterion.kept)) - criterion.lacking
    return Check(
        score=sqrt(sum(d * d for d in differences) / len(differences)),
        direction=sum(differences) / len(differences),
        drop=max(remain_drop, kept_drop, 0.0),
        held_out_losses=criterion.objective.losses(forward, criterion.held_out),
    )


def matched(criterion: Criterion, found: Check) -> bool:
    """Whether the forget set looks held out and the utility is kept."""
    return found.score <= criterion.stop.tolerance and found.drop <= criterion.stop.allowed_drop


def _only(batch: Batch, which: Tensor) -> Batch:
    """The batch itself where that is all of it, so that its forward pass is shared."""
    return batch if bool(which.all()) else Batch(batch.inputs[which], batch.targets[which])


def _once(model: nn.Module) -> Forward:
    """The model's forward pass, each set computed once however many signals read it: the passes are what a check costs."""
    answers: dict[int, Tensor] = {}

    def forward(inputs: Tensor) -> Tensor:
        # By identity: the sets outlive the check, and comparing their values would cost as much as the pass.
        if id(inputs) not in answers:
            answers[id(inputs)] = in_pieces(model)(inputs)
        return answers[id(inputs)]

    return forward


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


def _error_shortfall(criterion: Criterion, forward: Forward) -> float:
    """The share of wrong answers for the classes that go, minus 1, in standard errors of a share."""
    wrong = _wrong(criterion.objective, forward, criterion.going)
    n = len(wrong)
    pooled = (float(wrong.sum()) + n + 1) / (2 * n + 2)
    return (float(wrong.mean()) - 1) / sqrt(pooled * (1 - pooled) / n)


def _drop(before: Tensor, after: Tensor) -> float:
    """What was lost of a merit (n,), less one standard error of the paired difference: a few samples always turn."""
    lost = before - after
    return float(lost.mean() - lost.std(correction=0) / sqrt(len(lost))) if len(lost) else 0.0


def _lacking(objective: Objective, before: Tensor, *, share: float) -> float:
    """How much worse a model learns from this share of the data, in points: its error grows as the share to the power of −1/3.

    Learning curves of image classifiers fall so, about (Hestness et al., arXiv 1712.00409, §4); the exponent here is [ours].
    """
    if not len(before):
        return 0.0
    error = float((0.0 if objective.logits is None else 100.0) - before.mean())
    return max(0.0, error) * float(share**_LEARNING_CURVE - 1)


@torch.no_grad()
def _merit(objective: Objective, forward: Forward, *batches: Batch) -> Tensor:
    """(n,), in points: 100 where the sample is classified rightly; without classes, minus 100 times its loss."""
    if objective.logits is None:
        return torch.cat([-100 * objective.losses(forward, batch) for batch in batches])
    return torch.cat([100 - 100 * _wrong(objective, forward, batch) for batch in batches])


def _wrong(objective: Objective, forward: Forward, batch: Batch) -> Tensor:
    assert objective.logits is not None
    return (objective.logits(forward, batch.inputs).argmax(-1) != batch.targets).float()
