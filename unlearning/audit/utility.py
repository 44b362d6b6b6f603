"""What the model is still good for: error on D_f, accuracy on D_r and D_t, per class, and agreement with the original."""

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats, Interval, wilson
from unlearning.audit.signals import Signals


def accuracy(signals: Signals, *, among: NDArray[np.bool_] | None = None, confidence: float = 0.95) -> Interval:
    """The share of right predictions, 0 to 1, with Wilson's interval; among some of the samples, (n,), where any are chosen."""
    right = signals.correct if among is None or not among.any() else signals.correct[among]
    return wilson(int(right.sum()), len(right), confidence=confidence)


def per_class(original: Signals, unlearned: Signals) -> list[dict[str, object]]:
    """Accuracy in percent for each class that occurs, before and after."""
    rows: list[dict[str, object]] = []
    for label in np.unique(original.targets):
        here = original.targets == label
        before, after = original.correct[here].mean(), unlearned.correct[here].mean()
        rows.append({"class": str(label), "original": 100 * float(before), "unlearned": 100 * float(after)})
    return rows


def agreement(first: Signals, second: Signals) -> float:
    """The share of samples that both models put in the same class."""
    return float((first.predictions == second.predictions).mean())


def jensen_shannon(first: Floats, second: Floats) -> float:
    """The mean Jensen-Shannon divergence in nats (0 to log 2) of two sets of distributions, (n, classes).

    In log space: where a probability underflows to 0 its term is 0, never NaN.
    """
    middle = (first + second) / 2
    return float(np.clip((_relative(first, middle) + _relative(second, middle)).mean() / 2, 0.0, np.log(2)))


def total_variation(first: Floats, second: Floats) -> float:
    """The mean total variation distance (0 to 1) of two sets of distributions, (n, classes)."""
    return float(np.abs(first - second).sum(axis=1).mean() / 2)


def _relative(p: Floats, q: Floats) -> Floats:
    logs = np.log(p, out=np.zeros_like(p), where=p > 0) - np.log(q, out=np.zeros_like(q), where=q > 0)
    result: Floats = (p * logs).sum(axis=1)
    return result
