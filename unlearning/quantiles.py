"""Quantiles of samples that do not count alike."""

import torch
from torch import Tensor


def weighted_quantiles(values: Tensor, weights: Tensor, shares: Tensor) -> Tensor:
    """The least of `values` that at least each share of the weight does not lie above, (k,).

    values, weights: (m,), the weights summing to 1. shares: (k,), from 0 to 1.
    """
    order = values.argsort()
    mass = weights[order].cumsum(0)
    return values[order][torch.searchsorted(mass, shares).clamp(max=len(values) - 1)]
