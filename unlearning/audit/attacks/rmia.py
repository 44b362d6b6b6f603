"""RMIA: did training raise a sample's likelihood more than that of data nobody trained on? (Zarifzadeh et al., ICML 2024)

score(x) = share of the population z with ratio(x)/ratio(z) ≥ γ, where ratio(x) = p_θ(x)/p(x), p being the true label's probability.
"""

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats

OFFLINE_A = 0.3
GAMMA = 2.0
"""The paper's constants for CIFAR-10."""


def rmia(
    target: Floats,
    typical: Floats,
    *,
    population_target: Floats,
    population_typical: Floats,
    gamma: float = GAMMA,
) -> Floats:
    """The attack's score of each sample, (n,), between 0 and 1.

    target, typical: p_θ(x) and p(x), (n,). population_target, population_typical: the same of data that neither the attacked
    model nor any reference model was trained on, (m,).
    """
    ratio = target / np.maximum(typical, _LEAST)
    population = np.sort(population_target / np.maximum(population_typical, _LEAST))
    # ratio(x)/ratio(z) ≥ γ where ratio(z) ≤ ratio(x)/γ.
    below: Floats = np.searchsorted(population, ratio / gamma, side="right") / len(population)
    return below


def typical_offline(probabilities: Floats, members: NDArray[np.bool_], *, a: float = OFFLINE_A) -> Floats:
    """p(x) from models that were not trained on the sample alone, (n,): ((1 + a)·mean_OUT p(x) + (1 − a)) / 2.

    probabilities, members: (k, n). The mean over both kinds is guessed from that over one.
    """
    outside = (probabilities * ~members).sum(axis=0) / (~members).sum(axis=0)
    guessed: Floats = ((1 + a) * outside + (1 - a)) / 2
    return guessed


def typical_online(probabilities: Floats, members: NDArray[np.bool_]) -> Floats:
    """p(x) from as many models trained on the sample as not, (n,): (mean_IN p(x) + mean_OUT p(x)) / 2."""
    inside = (probabilities * members).sum(axis=0) / members.sum(axis=0)
    outside = (probabilities * ~members).sum(axis=0) / (~members).sum(axis=0)
    mean: Floats = (inside + outside) / 2
    return mean


_LEAST = 1e-300
