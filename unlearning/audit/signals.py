"""Signals: what a membership attack may read of each sample, and the merit, computed once for each set in float64."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning.audit.intervals import Floats, Interval, mean_of, wilson
from unlearning.data.objectives import Answers, Objective, answers
from unlearning.data.samples import SampleSet
from unlearning.features import FeatureReader
from unlearning.hardware import batched_answers, in_fastest_layout, inference_batches
from unlearning.networks import copy_network, device_of

ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "margin")
"""The threshold attacks on a single-label classifier, by the signal they use.

Loss, confidence and margin order its samples alike, so their AUC is the same number. All are printed because readers expect them.
"""
_NOT_FINITE = 1e4
"""What stands for a signal that is not finite."""
_LEAST_PROBABILITY = 2.0**-24
"""What a reference prediction of 0 counts as: half precision, in which predictions are kept, has no smaller number but 0."""
_AT_ONCE = 2**20
"""Logits (8 MiB) whose signals are computed at once: they take seven times as much."""
_COMPARED = ("forget", "held_out")
"""The sets on which models are compared by what they predict."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signals:
    """The signals of one set of n samples through one model, float64.

    loss: (n,), nats; with classes −log p_y. confidence: exp(−loss), (n,), with classes p_y. margin: (n,), `Objective.known`, with
        classes φ = z_y − logsumexp_{k≠y} z_k. more: other signals, by name, (n,), lower for data that the model knows.
    attacks: the signals that threshold attacks use.
    targets: (n,) int64 labels, by which sets are matched; 0 for all without classes.
    merit: (n,), points (`Merit`). bounds: of a set's merit, points. chance, chance_loss: the merit in points, and the loss, nats,
        of whoever knows how often each target occurs and no input.
    predicted: (m, c), what the model predicts, as one or more distributions a sample (`Prediction.counted`); without outputs of
        being right or wrong. None where nobody compares it.
    decisions: (m,) int64, the predicted class of each, or None if nothing is decided.
    correct: (n,), whether the largest logit is the target's; None without classes. finite: whether all outputs and losses were.
    """

    loss: Floats
    confidence: Floats
    margin: Floats
    more: Mapping[str, Floats]
    attacks: tuple[str, ...]
    targets: NDArray[np.int64]
    merit: Floats
    chance: float
    chance_loss: float
    bounds: tuple[float, float]
    predicted: Floats | None
    decisions: NDArray[np.int64] | None
    correct: NDArray[np.bool_] | None
    finite: bool

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def mean_merit(self) -> float:
        """The merit of the set in hundreds of points, within its bounds: with classes the share of correct predictions."""
        if self.correct is not None:
            return float(self.correct.mean())
        return float(np.clip(self.merit.mean(), *self.bounds)) / 100

    @property
    def probabilities(self) -> Floats:
        """What the model predicts; only of a set whose signals were asked for it."""
        assert self.predicted is not None
        return self.predicted

    def membership(self, attack: str) -> Floats:
        """Return the attack's score, (n,): the higher, the more the sample looks like a member.

        Members have a low loss and a low entropy, so these are negated. Without that the attack's sign would be reversed.
        """
        if attack in self.more:
            return -self.more[attack]
        values: Floats = getattr(self, attack)
        return -values if attack == "loss" else values


_ROWS = ("loss", "confidence", "margin", "targets", "merit", "predicted", "decisions", "correct")
"""The fields of `Signals` with a row for each sample, or more."""

SignalsBySet = Mapping[str, Signals]
"""The signals of one model by set: "forget", "remain", "held_out", "test"."""


def audit_copy(model: nn.Module, samples: SampleSet) -> nn.Module:
    """Copy a model into evaluation mode, in the fastest layout for these samples: an audit changes no model that it is given."""
    return in_fastest_layout(copy_network(model).eval(), samples.select(torch.arange(min(2, len(samples)))).inputs)


@torch.no_grad()
def observe(
    model: nn.Module,
    samples: SampleSet,
    *,
    objective: Objective,
    batch_size: int = 1024,
    probabilities: bool = False,
    reader: FeatureReader | None = None,
) -> Signals:
    """Compute the signals of every sample through `model`, an `audit_copy`, on the model's device; no batch's outputs are kept.

    probabilities: whether the signals have `probabilities`, the one thing in them as large as the outputs. reader: reads features
    in the same pass; only where no rank has a part of each batch.
    """
    device = device_of(model, samples.device)
    parts, targets = [], []
    with contextlib.nullcontext() if reader is None else reader:
        for batch in inference_batches(model, samples, device=device, max_size=batch_size):
            found = answers(objective, model, batch)
            if reader is not None:
                reader.note(found)
            outputs = None if found.outputs is None else found.outputs.double().cpu()
            found = Answers(found.losses.double().cpu(), outputs, found.targets.cpu())
            parts.append(_of_batch(objective, found, probabilities=probabilities))
            targets.append(found.targets)
    whole = joined_signals(parts)
    if objective.logits is not None:
        return whole
    return _with_chance(whole, objective, model, samples, torch.cat(targets), batch_size=batch_size)


def observe_all(
    model: nn.Module,
    sets: Mapping[str, SampleSet],
    *,
    objective: Objective,
    batch_size: int,
    readers: Mapping[str, FeatureReader],
) -> dict[str, Signals]:
    """Compute the signals of all sets, and read features of those that have a reader, in the same pass if there is one process.

    Those of the forget and the held-out set, by which models are compared, have `probabilities`.
    """
    alone = objective.alone is None
    found = {
        name: observe(
            model,
            samples,
            objective=objective,
            batch_size=batch_size,
            probabilities=name in _COMPARED,
            reader=readers.get(name) if alone else None,
        )
        for name, samples in sets.items()
    }
    if not alone:
        for name, reader in readers.items():
            samples = sets[name]
            reader.read(model, objective, samples, device=device_of(model, samples.device), max_size=batch_size)
    return found


def _shuffled(targets: Tensor) -> Tensor:
    return targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).to(targets.device)]


def _of_batch(objective: Objective, found: Answers, *, probabilities: bool) -> Signals:
    """Compute the signals of a batch; without class logits, the chance is left open."""
    if objective.logits is not None and found.outputs is not None:
        return signals(found.outputs.numpy(), found.targets.numpy(), probabilities=probabilities)
    predicts, merit = objective.predicts, objective.utility
    loss = _finite(found.losses)
    confidence = np.exp(-loss).clip(0.0, 1.0)
    predicted, decisions, more = np.stack([confidence, 1 - confidence], axis=1), None, {}
    if predicts is not None and found.outputs is not None:
        outputs = torch.nan_to_num(found.outputs)
        if probabilities:
            rows = predicts.distributions(outputs)
            predicted = (rows if predicts.counted is None else rows[predicts.counted(found.targets)]).numpy()
        decisions = None if predicts.decisions is None else predicts.decisions(outputs).numpy()
        more = {name: _finite(read(found.outputs, found.targets)) for name, read in predicts.signals.items()}
    return Signals(
        loss=loss,
        confidence=confidence,
        margin=_finite(objective.known(found)),
        more=more,
        attacks=("loss", *more),
        targets=np.zeros(len(loss), dtype=np.int64),
        merit=np.nan_to_num(merit.of(found).double().numpy(), nan=merit.bounds[0], neginf=merit.bounds[0]),
        chance=math.nan,
        chance_loss=math.nan,
        bounds=merit.bounds,
        predicted=predicted if probabilities else None,
        decisions=decisions,
        correct=None,
        finite=bool(found.losses.isfinite().all()) and (found.outputs is None or bool(found.outputs.isfinite().all())),
    )


def _with_chance(
    found: Signals, objective: Objective, model: nn.Module, samples: SampleSet, targets: Tensor, *, batch_size: int
) -> Signals:
    """Add what whoever knows how often each target occurs, and no input, would reach on targets (n, …)."""
    merit, guess = objective.utility, objective.guessed(targets)
    if guess is None:
        # Nobody says what a guess is: then it is the answer to another sample.
        others = samples.convert_targets(_shuffled)
        answered = batched_answers(
            objective, model, others, device=device_of(model, samples.device), max_size=batch_size
        )
        guess = Answers(answered.losses.double().cpu(), None, answered.targets.cpu())
    return replace(
        found,
        chance=float(merit.of(guess).double().mean()) if merit.chance is None else merit.chance(targets),
        chance_loss=float(guess.losses.mean()),
    )


def joined_signals(parts: Sequence[Signals]) -> Signals:
    """Join the signals of consecutive parts of a set. With classes the chance is that of the whole set."""
    first = parts[0]
    if len(parts) == 1:
        return first

    def joined(name: str) -> Any:
        return None if getattr(first, name) is None else np.concatenate([getattr(part, name) for part in parts])

    found = replace(
        first,
        **{name: joined(name) for name in _ROWS},
        more={name: np.concatenate([part.more[name] for part in parts]) for name in first.more},
        finite=all(part.finite for part in parts),
    )
    if first.correct is None:
        return found
    chance, chance_loss = _chance_of_classes(found.targets)
    return replace(found, chance=chance, chance_loss=chance_loss)


def _finite(values: Tensor) -> Floats:
    result: Floats = np.nan_to_num(values.numpy(), nan=_NOT_FINITE, posinf=_NOT_FINITE, neginf=-_NOT_FINITE)
    return result


def merit_of(signals: Signals, *, among: NDArray[np.bool_] | None = None, confidence: float = 0.95) -> Interval:
    """Compute the merit of a set in hundreds of points: the accuracy with Wilson's interval, or another mean with Student's.

    among: marks the samples to count, (n,); if none is marked, all count. The interval lies within the merit's bounds.
    """
    chosen = slice(None) if among is None or not among.any() else among
    if signals.correct is not None:
        right = signals.correct[chosen]
        return wilson(int(right.sum()), len(right), confidence=confidence)
    low, high = (bound / 100 for bound in signals.bounds)
    return mean_of(signals.merit[chosen] / 100, confidence=confidence, bounds=(low, high))


def signals(logits: Floats, targets: NDArray[np.int64], *, probabilities: bool = True) -> Signals:
    """Compute the signals of class logits (n, classes) float64 for targets (n,). A logit that is NaN counts as 0.

    more: the entropy of the prediction, and the modified entropy −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song, Mittal, USENIX
    Security 2021, eq. 8). probabilities: as of `observe`.
    """
    rows = max(1, _AT_ONCE // logits.shape[1])
    parts = [slice(start, start + rows) for start in range(0, len(logits), rows)]
    return joined_signals([_of_logits(logits[part], targets[part], probabilities=probabilities) for part in parts])


def signals_of_probabilities(probabilities: Tensor, targets: NDArray[np.int64]) -> Signals:
    """Compute the signals of probabilities of classes, (n, classes), such as reference predictions, as of logits."""
    rows = max(1, _AT_ONCE // probabilities.shape[1])
    parts, start = [], 0
    for part in torch.split(probabilities, rows):
        logits = np.log(part.double().cpu().numpy().clip(min=_LEAST_PROBABILITY))
        parts.append(_of_logits(logits, targets[start : start + len(part)], probabilities=False))
        start += len(part)
    return joined_signals(parts)


def _of_logits(logits: Floats, targets: NDArray[np.int64], *, probabilities: bool) -> Signals:
    finite = bool(np.isfinite(logits).all())
    logits = np.nan_to_num(logits, nan=0.0, posinf=1e4, neginf=-1e4)
    rows = np.arange(len(logits))
    total = _logsumexp(logits)
    log_p = logits - total[:, None]
    p = np.exp(log_p)

    others = _logsumexp(_without(logits, targets))
    margin = logits[rows, targets] - others
    loss = np.logaddexp(0.0, -margin)

    # 1 − p loses all digits if p is nearly 1, as it is for members. Only the class with the largest logit can have such a p.
    top = logits.argmax(axis=1)
    log_rest = np.log1p(-np.minimum(p, 0.5))
    between = (p > 0.5) & (p < 1)
    log_rest[between] = np.log1p(-p[between])
    log_rest[rows, top] = _logsumexp(_without(logits, top)) - total
    weighted = p * log_rest
    weighted[rows, targets] = 0.0
    correct = top == targets
    chance, chance_loss = _chance_of_classes(targets)
    return Signals(
        loss=loss,
        confidence=np.exp(-loss),
        margin=margin,
        more={
            "entropy": np.maximum(0.0, -(p * log_p).sum(axis=1)),
            "modified_entropy": np.exp(others - total) * loss - weighted.sum(axis=1),
        },
        attacks=ATTACKS,
        targets=targets,
        merit=100.0 * correct,
        chance=chance,
        chance_loss=chance_loss,
        bounds=(0.0, 100.0),
        predicted=p if probabilities else None,
        decisions=p.argmax(axis=1),
        correct=correct,
        finite=finite,
    )


def _chance_of_classes(targets: NDArray[np.int64]) -> tuple[float, float]:
    """Compute the accuracy, percent, of always saying the commonest class, and the loss, nats, of each class's share."""
    shares = np.bincount(targets) / len(targets)
    return 100 * float(shares.max()), float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def _logsumexp(values: Floats) -> Floats:
    top = values.max(axis=1)
    result: Floats = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return result


def _without(logits: Floats, index: NDArray[np.int64]) -> Floats:
    """Replace one entry of each row by −1e30, as if it were absent; −inf would give NaN if a row has no other entry."""
    out = logits.copy()
    out[np.arange(len(out)), index] = -1e30
    return out
