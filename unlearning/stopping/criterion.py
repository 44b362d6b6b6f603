"""The criterion of the calibrated stop: does the forget set look like held-out data, and is the utility preserved?

A service has no retrained model to compare with. It has held-out data that the model never saw, and a forgotten sample should look
like one of those: neither like a member, nor worse than a non-member (docs/methods.md §4) [ours].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn

from unlearning import ranks
from unlearning.data.objectives import Answers, Objective
from unlearning.data.objectives.prediction import Read
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.hardware import batched_answers, in_float32
from unlearning.specs import Stop
from unlearning.task import Task

Signal = Callable[[Answers], Tensor]
"""A number for each sample, (n,), that is higher for data the model does not know."""

_QUANTILES = (0.25, 0.5, 0.75, 0.9)
"""Of the held-out set's values: where the forget set's distribution is compared with it."""
_MONITORED_REMAINING = 512
"""Most remaining samples on which the utility is measured: each check runs them through the model."""
_FULLY_FORGOTTEN = 0.1
"""A class is fully forgotten if less than this share of its training samples remains."""
_LEARNING_CURVE = -1 / 3
"""The power of the amount of data with which a model's error falls [ours]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Check:
    """The result of one check.

    score: root mean square of the standardised differences between forget and held-out statistics; 0 is a perfect match.
    direction: their mean; below 0 the forget set still looks known, above 0 it stands out as unusually unknown.
    drop: points of merit (`Objective.utility`) lost beyond one standard error, the larger of remaining and held-out data; for
        held-out data also beyond what a model trained on so much less data is expected to lose.
    held_out_losses: (m,), nats, of the criterion's held-out samples: what the forget samples' losses should look like.
    """

    score: float
    direction: float
    drop: float
    held_out_losses: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Criterion:
    """What every check compares with, fixed before the first step.

    If a class is fully forgotten, held-out data of it cannot serve as a measure: the original model knows the class, and a
    retrained one would not. The model should be wrong about the forget samples of such a class, and may be wrong about its
    held-out samples.

    forgotten_classes: (classes,) bool, the fully forgotten classes; None without classes. of_class: (n,) bool, the forget samples
        of these; the others are compared with the held-out set. whole_classes: whether there are any.
    held_out: D_v's part for the criterion. guide: its part for guide attacks, on which the utility is measured too.
    weights: (m,), summing to 1, that give the held-out set the class mix of the forget samples that are compared with it.
    original_losses: (m,), nats, of the held-out set through the original model.
    other_class_losses: (c,), nats, of the forget samples of fully forgotten classes as ones of another class, through the original
        model; None with class logits, which are compared with a wrong answer instead.
    signals: what is compared. utility: (m + g,) bool, the held-out and guide samples on which the utility is measured: those of the
        remaining classes.
    original_merit: the merit, in points, of each remaining and each utility sample through the original model, (r,) and (k,).
    expected_drop: points of merit that a model trained without the forget set is expected to lose on held-out data.
    """

    stop: Stop
    objective: Objective
    forgotten_classes: Tensor | None
    forget: SampleSet
    of_class: Tensor
    whole_classes: bool
    remain: SampleSet
    held_out: SampleSet
    guide: SampleSet
    weights: Tensor
    original_losses: Tensor
    other_class_losses: Tensor | None
    signals: tuple[Signal, ...]
    utility: Tensor
    original_merit: tuple[Tensor, Tensor]
    expected_drop: float


@in_float32
def calibrate(task: Task, stop: Stop, *, guide_signals: Sequence[Signal] = ()) -> Criterion:
    """Fix the criterion on the model as it is now.

    The loss, the objective's signals (entropy) and with classes the error rate are compared, and the scores of guide attacks if
    given as `guide_signals`.
    """
    # A random stream of its own: from the method's stream these would be the very samples that the method rehearses first.
    generator = torch.Generator().manual_seed(-task.seed - 1)
    remain = task.remain.take(torch.randperm(len(task.remain), generator=generator)[:_MONITORED_REMAINING])
    classes = fully_forgotten_classes(task.forget, task.remain, classes=task.objective.classes)
    of_class = in_classes(task.forget.targets, classes)
    utility = ~in_classes(torch.cat([task.criterion.targets, task.guide.targets]), classes)
    compared = task.forget.take((~of_class).nonzero().flatten())
    held_out, guide, remaining = (
        _answers(task.objective, task.model, samples) for samples in (task.criterion, task.guide, remain)
    )
    merit = task.objective.utility.of
    utility_merit = torch.cat([merit(held_out), merit(guide)])[utility]
    whole_classes, no_logits = bool(of_class.any()), task.objective.logits is None
    return Criterion(
        stop=stop,
        objective=task.objective,
        forgotten_classes=classes,
        forget=task.forget,
        of_class=of_class,
        whole_classes=whole_classes,
        remain=remain,
        held_out=task.criterion,
        guide=task.guide,
        weights=matching_weights(compared, task.criterion, task.objective),
        original_losses=held_out.losses,
        other_class_losses=other_class_answers(task, of_class).losses if whole_classes and no_logits else None,
        signals=(_loss, *_offered_signals(task.objective), *guide_signals),
        utility=utility,
        original_merit=(merit(remaining), utility_merit),
        expected_drop=_expected_drop(
            task.objective, utility_merit, share=len(task.remain) / (len(task.remain) + len(compared))
        ),
    )


@in_float32
@torch.no_grad()
def check(criterion: Criterion, model: nn.Module) -> Check:
    """Compare the forget set with the held-out set, and the utility with the original's."""
    sets = (criterion.forget, criterion.held_out, criterion.guide, criterion.remain)
    forget, held_out, guide, remain = (_answers(criterion.objective, model, samples) for samples in sets)
    compared, of_class = forget.take(~criterion.of_class), forget.take(criterion.of_class)
    differences: list[float] = []
    if len(compared.losses):
        for signal in criterion.signals:
            differences += quantile_differences(signal(compared), signal(held_out), criterion.weights)
        if criterion.objective.logits is not None:
            differences.append(_error_difference(compared, held_out, criterion.weights))
    if criterion.other_class_losses is not None:
        differences += quantile_differences(of_class.losses, *as_set(criterion.other_class_losses))
    elif len(of_class.losses):
        differences.append(_class_error_difference(of_class))
    remain_before, utility_before = criterion.original_merit
    merit = criterion.objective.utility.of
    utility = torch.cat([merit(held_out), merit(guide)])[criterion.utility]
    return Check(
        score=ranks.agreed(sqrt(sum(d * d for d in differences) / len(differences))),
        direction=ranks.agreed(sum(differences) / len(differences)),
        drop=ranks.agreed(
            max(_drop(remain_before, merit(remain)), _drop(utility_before, utility) - criterion.expected_drop, 0.0)
        ),
        held_out_losses=held_out.losses,
    )


def matched(criterion: Criterion, latest: Check) -> bool:
    """Return whether the forget set looks like held-out data and the utility is preserved."""
    return latest.score <= criterion.stop.tolerance and latest.drop <= criterion.stop.allowed_drop


def fully_forgotten_classes(forget: SampleSet, remain: SampleSet, *, classes: int | None) -> Tensor | None:
    """Mark the classes of which less than a tenth remains, (classes,) bool. None without classes."""
    if classes is None:
        return None
    forgotten, remaining = (torch.bincount(samples.targets, minlength=classes) for samples in (forget, remain))
    return remaining < _FULLY_FORGOTTEN * (forgotten + remaining)


def in_classes(targets: Tensor, classes: Tensor | None) -> Tensor:
    """Mark the samples, (n,) bool, whose target (n,) is one of the marked `classes`, (classes,) bool; none if that is None."""
    if classes is None:
        return torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
    return classes[targets]


@in_float32
def other_class_answers(task: Task, chosen: Tensor) -> Answers:
    """Compute the model's answers to forget samples, (n,) bool, as if each were of another class (`other_classes`) [ours].

    A model that was trained without a class takes its name for anything else. So a sample of it should be known as well as it would
    be under another name. Raises as `other_classes`.
    """
    others = other_classes(task)[chosen.cpu()]
    generation = task.objective.generation
    assert generation is not None
    forget = task.forget.select(chosen.nonzero().flatten().cpu())
    return batched_answers(
        task.objective, task.model, generation.relabelled(forget, others.to(forget.targets.device))
    ).float()


def other_classes(task: Task) -> Tensor:
    """Draw for each forget sample one of the classes that stay, (n,) int64 on the CPU: the same ones each time.

    Raises MethodRefused for objectives without `Generation`, and where no class stays.
    """
    gone = fully_forgotten_classes(task.forget, task.remain, classes=task.objective.classes)
    if task.objective.generation is None or gone is None or bool(gone.all()):
        raise MethodRefused(
            "A class is to be forgotten as a whole, and nothing says how its samples should be answered then. That needs an "
            "objective with `logits`, or one with `generation` and a class that stays. Use Retrain."
        )
    others = (~gone).nonzero().flatten().cpu()
    draw = torch.randint(len(others), (len(task.forget),), generator=torch.Generator().manual_seed(task.seed))
    return others[draw]


def as_set(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses with equal weights that sum to 1, (n,) each."""
    return losses, torch.full_like(losses, 1 / len(losses))


def weighted_quantiles(values: Tensor, weights: Tensor, shares: Tensor) -> Tensor:
    """Compute, for each share, the least value at or below which that share of the weight lies, (k,), in the values' unit.

    values, weights: (m,), the weights summing to 1. shares: (k,), from 0 to 1. This is the inverse of the weighted empirical
    distribution function, NumPy's "inverted_cdf".
    """
    order = values.argsort()
    mass = weights[order].cumsum(0)
    return values[order][torch.searchsorted(mass, shares).clamp(max=len(values) - 1)]


def _answers(objective: Objective, model: nn.Module, samples: SampleSet) -> Answers:
    """Run a set through the model once, however many signals read its answers: it is what a check costs."""
    return batched_answers(objective, model, samples).float()


def _loss(found: Answers) -> Tensor:
    return found.losses


def _offered_signals(objective: Objective) -> list[Signal]:
    """List what the objective offers beside the loss, such as the entropy."""
    offered = () if objective.predicts is None else objective.predicts.signals.values()
    return [partial(_read, read) for read in offered]


def _read(read: Read, found: Answers) -> Tensor:
    assert found.outputs is not None
    return read(found.outputs, found.targets)


def matching_weights(forget: SampleSet, held_out: SampleSet, objective: Objective) -> Tensor:
    """Compute weights (m,), summing to 1, that give the held-out set the forget set's class mix."""
    if objective.classes is None:
        return torch.full((len(held_out),), 1 / len(held_out), device=held_out.device)
    wanted = torch.bincount(forget.targets, minlength=objective.classes).float()
    present = torch.bincount(held_out.targets, minlength=objective.classes).float()
    weights = (wanted / present.clamp(min=1))[held_out.targets]
    if not bool(weights.sum() > 0):
        weights = torch.ones_like(weights)
    return weights / weights.sum()


def quantile_differences(forget: Tensor, held_out: Tensor, weights: Tensor) -> list[float]:
    """Compute, in standard errors, the share of the forget set above each held-out quantile minus the expected share.

    A share of k in n is binomial, so its standard error is known in closed form: sqrt(q(1 − q)(1/n_f + 1/n_v)).
    """
    spread = 1 / len(forget) + float((weights**2).sum())
    thresholds = weighted_quantiles(held_out, weights, weights.new_tensor(_QUANTILES))
    result = []
    for q, threshold in zip(_QUANTILES, thresholds, strict=True):
        # Ties count half on both sides: a confident model gives many samples the same loss.
        share = float(_above(forget, threshold).mean())
        expected = float((_above(held_out, threshold) * weights).sum())
        result.append((share - expected) / sqrt(q * (1 - q) * spread))
    return result


def _above(values: Tensor, threshold: Tensor) -> Tensor:
    """Return 1 above the threshold, 1/2 at it, 0 below, (n,)."""
    return (values > threshold).float() + 0.5 * (values == threshold).float()


def _error_difference(forget: Answers, held_out: Answers, weights: Tensor) -> float:
    """Compute the forget set's error rate minus the held-out set's, in standard errors."""
    wrong, n = forget.wrong, len(forget.losses)
    expected = float((held_out.wrong * weights).sum())
    pooled = (float(wrong.sum()) + expected * n + 1) / (2 * n + 2)
    spread = 1 / n + float((weights**2).sum())
    return (float(wrong.mean()) - expected) / sqrt(max(pooled * (1 - pooled), 1e-6) * spread)


def _class_error_difference(forget: Answers) -> float:
    """Compute the error rate on the fully forgotten classes minus 1, in standard errors of a share."""
    wrong, n = forget.wrong, len(forget.losses)
    pooled = (float(wrong.sum()) + n + 1) / (2 * n + 2)
    return (float(wrong.mean()) - 1) / sqrt(pooled * (1 - pooled) / n)


def _drop(before: Tensor, after: Tensor) -> float:
    """Compute the mean loss of a merit (n,) minus one standard error of the paired difference: a few samples always change."""
    lost = before - after
    return float(lost.mean() - lost.std(correction=0) / sqrt(len(lost))) if len(lost) else 0.0


def _expected_drop(objective: Objective, before: Tensor, *, share: float) -> float:
    """Compute how much worse, in points, a model learns from this share of the data: its error grows as share^(−1/3).

    Learning curves of image classifiers fall roughly so (Hestness et al., arXiv 1712.00409, §4); the exponent here is [ours].
    """
    if not len(before):
        return 0.0
    return expected_loss(float(objective.utility.bounds[1] - before.mean()), share=share)


def expected_loss(error: float, *, share: float) -> float:
    """Return how much larger an error, in any unit, is expected to be for a model that learns from this share of the data."""
    return max(0.0, error) * float(share**_LEARNING_CURVE - 1)
