"""KLoM: how far each sample's margin under unlearned models is from that under models retrained without it, as distributions.

KL( retrained ‖ unlearned ) of one sample's margins over many models, from histograms of 20 bins over both, margins clipped to
± 100 (Georgiev et al., Attribute-to-Delete, 2024). 0 is a perfect match, and finitely many models never reach it: see its null.
"""

from dataclasses import dataclass

import numpy as np

from unlearning.audit.intervals import Floats

_BINS = 20
_CLIP = 100.0
_LEAST = 1e-5


def klom(unlearned: Floats, retrained: Floats) -> Floats:
    """The divergence of each sample, (n,), nats. unlearned: margins (k, n). retrained: margins (l, n)."""
    columns = zip(unlearned.clip(-_CLIP, _CLIP).T, retrained.clip(-_CLIP, _CLIP).T, strict=True)
    return np.array([_divergence(one, other) for one, other in columns])


def _divergence(unlearned: Floats, retrained: Floats) -> float:
    low, high = min(unlearned.min(), retrained.min()), max(unlearned.max(), retrained.max())
    if low == high:
        return 0.0
    edges = np.linspace(low, high, _BINS + 1)
    q, p = (
        (np.histogram(values, edges)[0] / len(values) + _LEAST) / (1 + _BINS * _LEAST)
        for values in (unlearned, retrained)
    )
    return float((p * np.log(p / q)).sum())


DELTA = 1e-5
_WIDTH = 0.5
_COUNT = 13


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """score: quality · utility. quality: the mean mark, 0 to 1. utility: the product of the accuracies' ratios to retraining.

    null: the quality of retrained models against other retrained ones. models: how many on each side, of both.
    """

    score: float
    quality: float
    utility: float
    null: float
    models: int


def forgetting(unlearned: Floats, retrained: Floats, *, utility: float) -> Forgetting:
    """From margins (k, n) of as many unlearned as retrained models, k >= 4.

    Half of the retrained ones are what both the unlearned and the other half are compared with, so that score and null are of
    the same size.
    """
    half = len(retrained) // 2
    compared = retrained[half : 2 * half]
    quality = mark(epsilons(unlearned[:half], compared))
    return Forgetting(
        score=quality * utility,
        quality=quality,
        utility=utility,
        null=mark(epsilons(retrained[:half], compared)),
        models=half,
    )


def epsilons(unlearned: Floats, retrained: Floats, *, delta: float = DELTA) -> Floats:
    """The largest ε of each sample over all single thresholds in both directions, (n,); infinite where one separates the two.

    unlearned: (k, n), retrained: (l, n). An attack with one rate of 0 but not the other shows nothing and is left out, as there.
    """
    return np.array(
        [_epsilon(one, other, delta) for one, other in zip(unlearned.T, retrained.T, strict=True)], dtype=np.float64
    )


def mark(epsilons: Floats) -> float:
    """The mean of 2/2^n, n being the bin of ε: 1 for the first, [0, 0.5)."""
    bins = np.digitize(epsilons, np.arange(_COUNT) * _WIDTH)
    return float((2.0 / 2.0**bins).mean())


def _epsilon(unlearned: Floats, retrained: Floats, delta: float) -> float:
    levels = np.unique(np.concatenate([unlearned, retrained]))
    above = [
        1 - np.searchsorted(np.sort(values), levels, side="right") / len(values) for values in (unlearned, retrained)
    ]
    best = 0.0
    # Calling those above the level unlearned, and calling those below it so.
    for hit, alarm in ((above[0], above[1]), (1 - above[0], 1 - above[1])):
        miss = 1 - hit
        if bool(((miss == 0) & (alarm == 0)).any()):
            return float("inf")
        told = (miss > 0) & (alarm > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = np.log(1 - delta - alarm) - np.log(miss), np.log(1 - delta - miss) - np.log(alarm)
        for found in pairs:
            seen = found[told & np.isfinite(found)]
            best = max(best, float(seen.max())) if len(seen) else best
    return best
