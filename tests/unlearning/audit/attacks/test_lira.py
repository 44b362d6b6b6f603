"""LiRA's scores against the normal densities of scipy, and on margins whose law and membership are known."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from unlearning.audit.attacks.lira import attack_each, lira


def known(*, models: int, samples: int, shift: float, seed: int = 0):
    """Margins N(μ_x + shift, 1) where the model was trained on x and N(μ_x, 1) where not; samples differ widely in μ_x."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 5, samples)
    members = np.stack([rng.permutation(samples) < samples // 2 for _ in range(models)])
    shadows = difficulty + shift * members + rng.normal(size=(models, samples))
    truth = rng.permutation(samples) < samples // 2
    return difficulty + shift * truth + rng.normal(size=samples), shadows, members, truth


def test_with_many_models_it_is_the_ratio_of_two_normal_densities_a_sample() -> None:
    target, shadows, members, _ = known(models=160, samples=20, shift=1.5)
    wanted = []
    for i in range(20):
        inside, outside = shadows[members[:, i], i], shadows[~members[:, i], i]
        wanted.append(
            norm.logpdf(target[i], inside.mean(), inside.std(ddof=1))
            - norm.logpdf(target[i], outside.mean(), outside.std(ddof=1))
        )

    np.testing.assert_allclose(lira(target, shadows, members), wanted, rtol=1e-10)


def test_with_few_models_all_samples_share_one_spread() -> None:
    target, shadows, members, _ = known(models=10, samples=50, shift=1.5)
    residuals = {True: [], False: []}
    means = {True: [], False: []}
    for i in range(50):
        for side in (True, False):
            values = shadows[members[:, i] == side, i]
            means[side].append(values.mean())
            residuals[side].extend(values - values.mean())
    spread = {side: math.sqrt(np.square(found).sum() / (len(found) - 50)) for side, found in residuals.items()}
    wanted = norm.logpdf(target, means[True], spread[True]) - norm.logpdf(target, means[False], spread[False])

    np.testing.assert_allclose(lira(target, shadows, members), wanted, rtol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_where_members_are_known_the_auc_is_that_of_two_normals(shift: float) -> None:
    """Two normals with unit spread, `shift` apart: AUC = Φ(shift/√2). Estimated from 400 models, over 2,000 samples."""
    target, shadows, members, truth = known(models=400, samples=2000, shift=shift)
    found = roc_auc_score(truth, lira(target, shadows, members))

    # Three standard errors of an AUC on 1,000 and 1,000 (at most those under the null), and what estimating the densities costs.
    assert abs(found - norm.cdf(shift / math.sqrt(2))) < 3 * math.sqrt(2001 / (12 * 1000 * 1000)) + 0.01


def test_a_threshold_on_the_margin_alone_sees_far_less() -> None:
    """What the calibration of each sample buys: easy samples have high margins, members or not."""
    target, shadows, members, truth = known(models=64, samples=2000, shift=2.0)

    assert roc_auc_score(truth, target) < 0.65
    assert roc_auc_score(truth, lira(target, shadows, members)) > 0.88


def test_models_that_agree_completely_give_finite_scores() -> None:
    shadows = np.tile([1.0, 2.0, 3.0], (4, 1))
    members = np.array([[True, False, True], [False, True, False]] * 2)

    assert np.isfinite(lira(np.array([1.0, 2.0, 5.0]), shadows, members)).all()


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.45, 0.55), (10.0, 0.999, 1.0)])
def test_each_shadow_model_is_attacked_by_the_others(shift: float, least: float, most: float) -> None:
    _, shadows, members, _ = known(models=40, samples=200, shift=shift)

    found = attack_each(shadows, members)

    assert least <= found.value <= most
    assert found.low <= found.value <= found.high


def test_an_attacked_model_is_no_shadow_model_of_its_own() -> None:
    """With itself among the shadow models, a model that knows nothing would be recognised."""
    _, shadows, members, _ = known(models=40, samples=500, shift=0.0)

    with_itself = [
        roc_auc_score(inside, lira(margins, shadows, members)) for margins, inside in zip(shadows, members, strict=True)
    ]

    assert np.mean(with_itself) > 0.55
    assert attack_each(shadows, members).value < 0.52
