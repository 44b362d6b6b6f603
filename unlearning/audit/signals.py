"""Signals: what a membership attack may read of each sample, and the merit, computed once for each set in float64."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning.audit.intervals import Floats, Interval, student, wilson
from unlearning.data.objectives import Answers, Objective
from unlearning.data.samples import SampleSet
from unlearning.features import FeatureReader
from unlearning.hardware import batched_answers, in_fastest_layout
from unlearning.networks import copy_network, device_of

ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "margin")
"""The threshold attacks on a single-label classifier, by the signal they use.

Loss, confidence and margin order its samples alike, so their AUC is the same number. All are printed because readers expect them.
"""
_NOT_FINITE = 1e4
"""What stands for a signal that is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signals:
    """The signals of one set of n samples through one model, float64.

    loss: (n,), nats; with classes −log p_y. confidence: exp(−loss), (n,), with classes p_y. margin: (n,), `Objective.known`, with
        classes φ = z_y − logsumexp_{k≠y} z_k. more: other signals, by name, (n,), lower for data that the model knows.
    attacks: the signals that threshold attacks use.
    targets: (n,) int64 labels, by which sets are matched; 0 for all without classes.
    merit: (n,), points (`Merit`). bounds: of a set's merit, points. chance, chance_loss: the merit in points, and the loss, nats,
        of whoever knows how often each target occurs and no input.
    probabilities: (m, c), what the model predicts, as one or more distributions a sample; without outputs of being right or wrong.
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
    probabilities: Floats
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

    def membership(self, attack: str) -> Floats:
        """Return the attack's score, (n,): the higher, the more the sample looks like a member.

        Members have a low loss and a low entropy, so these are negated. Without that the attack's sign would be reversed.
        """
        if attack in self.more:
            return -self.more[attack]
        values: Floats = getattr(self, attack)
        return -values if attack == "loss" else values


SignalsBySet = Mapping[str, Signals]
"""The signals of one model by set: "forget", "remain", "held_out", "test"."""


def audit_copy(model: nn.Module, samples: SampleSet) -> nn.Module:
    """Copy a model into evaluation mode, in the fastest layout for these samples: an audit changes no model that it is given."""
    return in_fastest_layout(copy_network(model).eval(), samples.select(torch.arange(min(2, len(samples)))).inputs)


def observe(
    model: nn.Module,
    samples: SampleSet,
    *,
    objective: Objective,
    batch_size: int = 1024,
    reader: FeatureReader | None = None,
) -> Signals:
    """Compute the signals of every sample through `model`, an `audit_copy`, on the model's device.

    reader: reads features in the same pass; only where no rank has a part of each batch.
    """
    device = device_of(model, samples.device)

    def answer(samples: SampleSet, reader: FeatureReader | None = None) -> Answers:
        with contextlib.nullcontext() if reader is None else reader:
            note = None if reader is None else reader.note
            found = batched_answers(objective, model, samples, device=device, max_size=batch_size, after_each=note)
        outputs = None if found.outputs is None else found.outputs.double().cpu()
        return Answers(found.losses.double().cpu(), outputs, found.targets.cpu())

    found = answer(samples, reader)
    if objective.logits is not None and found.outputs is not None:
        return signals(found.outputs.numpy(), found.targets.numpy())
    guess = objective.guessed(found.targets)
    if guess is None:
        # Nobody says what a guess is: then it is the answer to another sample.
        guess = answer(samples.convert_targets(_shuffled))
    return _offered(objective, found, guess)


def observe_all(
    model: nn.Module,
    sets: Mapping[str, SampleSet],
    *,
    objective: Objective,
    batch_size: int,
    readers: Mapping[str, FeatureReader],
) -> dict[str, Signals]:
    """Compute the signals of all sets, and read features of those that have a reader, in the same pass if there is one process."""
    alone = objective.alone is None
    found = {
        name: observe(
            model, samples, objective=objective, batch_size=batch_size, reader=readers.get(name) if alone else None
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


def _offered(objective: Objective, found: Answers, guess: Answers) -> Signals:
    """Compute the signals from what an objective without class logits offers."""
    predicts, merit = objective.predicts, objective.utility
    loss = _finite(found.losses)
    confidence = np.exp(-loss).clip(0.0, 1.0)
    probabilities, decisions, more = np.stack([confidence, 1 - confidence], axis=1), None, {}
    if predicts is not None and found.outputs is not None:
        outputs = torch.nan_to_num(found.outputs)
        probabilities = predicts.distributions(outputs).numpy()
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
        chance=float(merit.of(guess).double().mean()) if merit.chance is None else merit.chance(found.targets),
        chance_loss=float(guess.losses.mean()),
        bounds=merit.bounds,
        probabilities=probabilities,
        decisions=decisions,
        correct=None,
        finite=bool(found.losses.isfinite().all()) and (found.outputs is None or bool(found.outputs.isfinite().all())),
    )


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
    merit, (low, high) = signals.merit[chosen] / 100, (bound / 100 for bound in signals.bounds)
    mean, n = float(merit.mean()), len(merit)
    half = student(confidence, n - 1) * float(merit.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Interval(*(min(max(end, low), high) for end in (mean, mean - half, mean + half)))


def signals(logits: Floats, targets: NDArray[np.int64]) -> Signals:
    """Compute the signals of class logits (n, classes) float64 for targets (n,). A logit that is NaN counts as 0.

    more: the entropy of the prediction, and the modified entropy −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song, Mittal, USENIX
    Security 2021, eq. 8).
    """
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
    shares = np.bincount(targets) / len(targets)
    correct = top == targets
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
        chance=100 * float(shares.max()),
        chance_loss=float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()),
        bounds=(0.0, 100.0),
        probabilities=p,
        decisions=p.argmax(axis=1),
        correct=correct,
        finite=finite,
    )


def _logsumexp(values: Floats) -> Floats:
    top = values.max(axis=1)
    result: Floats = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return result


def _without(logits: Floats, index: NDArray[np.int64]) -> Floats:
    """Replace one entry of each row by −1e30, as if it were absent; −inf would give NaN if a row has no other entry."""
    out = logits.copy()
    out[np.arange(len(out)), index] = -1e30
    return out
