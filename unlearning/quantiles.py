"""Quantiles of samples that do not count alike."""

import torch
from torch import Tensor


def weighted_quantiles(values: Tensor, weights: Tensor, shares: Tensor) -> Tensor:
    """For each share the least of `values` at or below which that share of the weight lies, (k,), in their unit.

    values, weights: (m,), the weights summing to 1. shares: (k,), from 0 to 1. The inverse of the weighted empirical distribution
    function, NumPy's "inverted_cdf".
    """
    order = values.argsort()
    mass = weights[order].cumsum(0)
    return values[order][torch.searchsorted(mass, shares).clamp(max=len(values) - 1)]
