"""KLoM and the forgetting score: how a sample's margins under many unlearned models differ from those under retrained models.

KLoM is KL( retrained ‖ unlearned ) of one sample's margins, from histograms of 20 bins over both, margins clipped to ± 100
(Georgiev et al., "Attribute-to-Delete", arXiv 2410.23232). 0 is a perfect match, which finitely many models never reach: compare
it with its null.

The forgetting score is that of the NeurIPS 2023 unlearning challenge: for each sample the ε of the best attack by one threshold
tells unlearned from retrained models; the score is the mean mark of the samples' ε, times the utility relative to retraining.
"""

from dataclasses import dataclass

import numpy as np

from unlearning.audit.intervals import Floats

_BINS = 20
_CLIP = 100.0
_MIN_SHARE = 1e-5
DELTA = 1e-5
"""δ of the (ε, δ) that the score estimates."""
_BIN_WIDTH = 0.5
"""Of ε."""
_BIN_COUNT = 13


def klom(unlearned: Floats, retrained: Floats) -> Floats:
    """Compute the divergence of each sample, (n,), nats. unlearned: margins (k, n). retrained: margins (l, n)."""
    columns = zip(unlearned.clip(-_CLIP, _CLIP).T, retrained.clip(-_CLIP, _CLIP).T, strict=True)
    return np.array([_divergence(one, other) for one, other in columns])


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgettingScore:
    """The forgetting score and its parts.

    score: quality · utility. quality: the mean mark, 0 to 1. utility: the product of the accuracies' ratios to retraining.
    null: the quality of retrained models compared with other retrained ones. models: how many on each side of both comparisons.
    """

    score: float
    quality: float
    utility: float
    null: float
    models: int


def forgetting_score(unlearned: Floats, retrained: Floats, *, utility: float) -> ForgettingScore:
    """Compute the score from margins (k, n) of as many unlearned as retrained models, k >= 4.

    The unlearned models and half of the retrained ones are each compared with the other half, so that score and null use as many
    models.
    """
    half = len(retrained) // 2
    compared = retrained[half : 2 * half]
    quality = mean_mark(sample_epsilons(unlearned[:half], compared))
    return ForgettingScore(
        score=quality * utility,
        quality=quality,
        utility=utility,
        null=mean_mark(sample_epsilons(retrained[:half], compared)),
        models=half,
    )


def sample_epsilons(unlearned: Floats, retrained: Floats, *, delta: float = DELTA) -> Floats:
    """Compute each sample's largest ε over all single thresholds in both directions, (n,); infinite if one separates the two.

    unlearned: (k, n), retrained: (l, n). A threshold with only one of its two error rates at 0 is left out, as in the challenge.
    """
    return np.array(
        [_epsilon(one, other, delta) for one, other in zip(unlearned.T, retrained.T, strict=True)], dtype=np.float64
    )


def mean_mark(epsilons: Floats) -> float:
    """Compute the mean of 2/2^n, with n the number of the bin of ε: 1 for the first bin, [0, 0.5)."""
    bins = np.digitize(epsilons, np.arange(_BIN_COUNT) * _BIN_WIDTH)
    return float((2.0 / 2.0**bins).mean())


def _epsilon(unlearned: Floats, retrained: Floats, delta: float) -> float:
    levels = np.unique(np.concatenate([unlearned, retrained]))
    above = [
        1 - np.searchsorted(np.sort(values), levels, side="right") / len(values) for values in (unlearned, retrained)
    ]
    best = 0.0
    # Margins above the threshold count as unlearned, then those below it.
    for hit, alarm in ((above[0], above[1]), (1 - above[0], 1 - above[1])):
        miss = 1 - hit
        if bool(((miss == 0) & (alarm == 0)).any()):
            return float("inf")
        both = (miss > 0) & (alarm > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = np.log(1 - delta - alarm) - np.log(miss), np.log(1 - delta - miss) - np.log(alarm)
        for values in pairs:
            finite = values[both & np.isfinite(values)]
            best = max(best, float(finite.max())) if len(finite) else best
    return best


def _divergence(unlearned: Floats, retrained: Floats) -> float:
    low, high = min(unlearned.min(), retrained.min()), max(unlearned.max(), retrained.max())
    if low == high:
        return 0.0
    edges = np.linspace(low, high, _BINS + 1)
    q, p = (
        (np.histogram(values, edges)[0] / len(values) + _MIN_SHARE) / (1 + _BINS * _MIN_SHARE)
        for values in (unlearned, retrained)
    )
    return float((p * np.log(p / q)).sum())
