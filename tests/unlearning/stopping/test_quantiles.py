"""Weighted quantiles, beside numpy's inverted distribution function."""

import numpy as np
import pytest
import torch

from unlearning.stopping.criterion import weighted_quantiles


@pytest.mark.parametrize("seed", range(5))
def test_they_are_numpys_quantiles_by_the_inverted_distribution_function(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, weights, shares = generator.normal(size=40), generator.random(40), generator.random(7)
    found = weighted_quantiles(*map(torch.tensor, (values, weights / weights.sum(), shares)))

    assert found.numpy() == pytest.approx(np.quantile(values, shares, method="inverted_cdf", weights=weights))


def test_a_share_beyond_the_rounded_sum_of_the_weights_is_the_largest_value() -> None:
    assert weighted_quantiles(torch.tensor([3.0, 1.0]), torch.tensor([0.4, 0.5]), torch.tensor([1.0])).tolist() == [3.0]
