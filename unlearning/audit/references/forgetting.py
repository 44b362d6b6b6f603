"""The forgetting score of the NeurIPS 2023 unlearning challenge: can unlearned be told from retrained? (Triantafillou et al., 2024)

Each forgotten sample gets the largest ε that an attack on its margin, over many models, attains:

    ε = max( log(1 − δ − FPR) − log FNR,  log(1 − δ − FNR) − log FPR )

and a mark 2/2^n for the bin n that ε falls in (13 of width 0.5). The score is the mean mark, 1 at best, times the ratio of the
accuracies to those of retraining. With k models a rate below 1/k cannot be seen, so the score depends on their number: it means
something only beside the null, retrained against retrained, with as many.
"""

from dataclasses import dataclass

import numpy as np

from unlearning.audit.intervals import Floats

DELTA = 1e-5
_WIDTH = 0.5
_COUNT = 13


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """quality: the mean mark, 0 to 1. utility: the product of the accuracies' ratios to retraining. null: the quality of retrained
    models against other retrained ones. models: how many on each side, of both.
    """

    quality: float
    utility: float
    null: float
    models: int

    @property
    def score(self) -> float:
        """quality · utility."""
        return self.quality * self.utility

    def to_json(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "score": self.score,
            "quality": self.quality,
            "utility": self.utility,
            "null": self.null,
            "models": self.models,
        }


def forgetting(unlearned: Floats, retrained: Floats, *, utility: float) -> Forgetting:
    """From margins (k, n) of as many unlearned as retrained models, k >= 4.

    Half of the retrained ones are what both the unlearned and the other half are compared with, so that score and null are of
    the same size.
    """
    half = len(retrained) // 2
    compared = retrained[half : 2 * half]
    return Forgetting(
        quality=mark(epsilons(unlearned[:half], compared)),
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
