"""LiRA and U-LiRA, the likelihood-ratio attack on each sample: on trained shadow models, and on the same models after unlearning.

score(x) = log N(φ(x); μ_in, s_in) − log N(φ(x); μ_out, s_out), with φ the margin z_y − logsumexp_{k≠y} z_k (Carlini et al.,
IEEE S&P 2022, §V). In U-LiRA "in" means trained on and then unlearned by the audited method (Hayes et al., 2024): it tells a
model that unlearned a sample from one that never saw it.
"""

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats, Interval, mean_of
from unlearning.audit.membership import auc

MIN_FOR_OWN_SPREAD = 32
"""Models on either side. With fewer, one spread is used for all samples: each sample's own is noise (Carlini et al., §VI-C)."""

_MIN_SPREAD = 1e-6


def lira(target: Floats, shadows: Floats, members: NDArray[np.bool_]) -> Floats:
    """Compute the attack's score of each sample, (n,): the higher, the more the sample looks like "in".

    target: margins through the attacked model, (n,). shadows: margins through k shadow models, (k, n). members: (k, n), whether the
    shadow model was trained on the sample; every sample must be in at least one and not in at least one.
    """
    inside, outside = (_fitted(shadows, chosen) for chosen in (members, ~members))
    return _log_normal(target, *inside) - _log_normal(target, *outside)


def attack_each(shadows: Floats, members: NDArray[np.bool_], *, confidence: float = 0.95) -> Interval:
    """Attack each of k shadow models with the others as its shadow models; return the mean AUC over members and others [ours].

    One model says little of a few samples, and the shadow models are there. The interval is Student's over the models, as if these
    were independent. shadows, members: as of `lira`; every sample must be in two models and not in two.
    """
    found = []
    for attacked, inside in enumerate(members):
        others = np.arange(len(members)) != attacked
        scores = lira(shadows[attacked], shadows[others], members[others])
        sides = scores[inside], scores[~inside]
        found.append(float(auc(*sides, *(np.ones((1, len(side))) for side in sides))[0]))
    return mean_of(np.array(found), confidence=confidence)


def _fitted(shadows: Floats, chosen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Compute the mean and standard deviation of each sample's margins, (n,), over the chosen models."""
    counts = chosen.sum(axis=0)
    mean = (shadows * chosen).sum(axis=0) / counts
    squares = (chosen * (shadows - mean) ** 2).sum(axis=0)
    if counts.min() >= MIN_FOR_OWN_SPREAD:
        spread = np.sqrt(squares / (counts - 1))
    else:
        # Each sample's mean takes one degree of freedom.
        spread = np.full(len(mean), np.sqrt(squares.sum() / max(1, counts.sum() - len(mean))))
    return mean, np.maximum(spread, _MIN_SPREAD)


def _log_normal(values: Floats, mean: Floats, spread: Floats) -> Floats:
    density: Floats = -0.5 * ((values - mean) / spread) ** 2 - np.log(spread) - 0.5 * np.log(2 * np.pi)
    return density
