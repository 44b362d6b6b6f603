"""RMIA: did training raise a sample's likelihood more than that of data never trained on? (Zarifzadeh et al., ICML 2024)

score(x) = share of the population z with ratio(x)/ratio(z) ≥ γ, where ratio(x) = p_θ(x)/p(x) and p is the true label's probability.
"""

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats

_MIN_PROBABILITY = 1e-300


def rmia(
    target: Floats,
    typical: Floats,
    *,
    population_target: Floats,
    population_typical: Floats,
    gamma: float,
) -> Floats:
    """Compute the attack's score of each sample, (n,), 0 to 1.

    target, typical: p_θ(x) and p(x), (n,). population_target, population_typical: the same for data that neither the attacked
    model nor any reference model was trained on, (m,).
    """
    ratio = target / np.maximum(typical, _MIN_PROBABILITY)
    population = np.sort(population_target / np.maximum(population_typical, _MIN_PROBABILITY))
    # ratio(x)/ratio(z) ≥ γ means ratio(z) ≤ ratio(x)/γ.
    below: Floats = np.searchsorted(population, ratio / gamma, side="right") / len(population)
    return below


def typical_offline(probabilities: Floats, members: NDArray[np.bool_], *, a: float) -> Floats:
    """Estimate p(x) from models not trained on the sample only, (n,): ((1 + a)·mean_OUT p(x) + (1 − a)) / 2.

    probabilities, members: (k, n). The formula estimates the mean over both kinds of models from the mean over one kind.
    """
    outside = (probabilities * ~members).sum(axis=0) / (~members).sum(axis=0)
    estimate: Floats = ((1 + a) * outside + (1 - a)) / 2
    return estimate


def typical_online(probabilities: Floats, members: NDArray[np.bool_]) -> Floats:
    """Compute p(x) from models trained on the sample and models not, (n,): (mean_IN p(x) + mean_OUT p(x)) / 2."""
    inside = (probabilities * members).sum(axis=0) / members.sum(axis=0)
    outside = (probabilities * ~members).sum(axis=0) / (~members).sum(axis=0)
    mean: Floats = (inside + outside) / 2
    return mean
