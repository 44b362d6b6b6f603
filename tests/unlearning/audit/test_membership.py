import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import auc as trapezoid
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.metrics import roc_curve as whole_roc_curve

from unlearning.audit.intervals import wilson
from unlearning.audit.membership import (
    Attack,
    Pairing,
    attack_by_reference,
    attack_by_scores,
    auc,
    auc_half_width,
    balanced_accuracy,
    class_mix_differs,
    member_threshold,
    membership_margin,
    membership_power,
    pair,
    roc_curve,
    spread_scores,
    tpr_at,
)
from unlearning.audit.signals import Signals, signals
from unlearning.audit.verdict import LEAST_POWER
from unlearning.specs.audit import AuditSpec, Thresholds

Scores = tuple[np.ndarray, np.ndarray]


def scores(seed: int, n: int = 80, m: int = 150, *, shift: float = 0.5, ties: bool = False) -> Scores:
    rng = np.random.default_rng(seed)
    f, v = rng.normal(shift, 1, n), rng.normal(0, 1, m)
    return (f.round(), v.round()) if ties else (f, v)


def pairing(n: int, m: int, *, replicates: int = 300, seed: int = 0) -> Pairing:
    zeros = np.zeros(n, dtype=np.int64), np.zeros(m, dtype=np.int64)
    return pair(*zeros, max_samples=5000, replicates=replicates, rng=np.random.default_rng(seed))


def attacked(f: np.ndarray, v: np.ndarray, **changes: object) -> Attack:
    settings = {"threshold": 0.0, "spec": AuditSpec(confidence=0.95), **changes}
    return attack_by_scores("loss", f, v, pairing(len(f), len(v)), **settings)  # type: ignore[arg-type]


def null_aucs(n: int, m: int, *, draws: int = 4000) -> np.ndarray:
    """AUCs of n and m samples with the same law, (draws,), from the sums of n of the ranks 0 to n + m − 1 (Mann-Whitney)."""
    ranks = np.random.default_rng(0).random((draws, n + m)).argsort(axis=1)
    return (ranks[:, :n].sum(axis=1) - n * (n - 1) / 2) / (n * m)


def test_the_attack_by_reference_is_the_difference_of_the_losses_with_the_threshold_of_equal_ones() -> None:
    """Carlini et al., 2021: a member's loss is smaller than that of a model which never saw it, whatever the loss itself is."""
    rng = np.random.default_rng(0)
    difficulty = {"forget": rng.uniform(2, 6, 60), "held_out": rng.uniform(1, 5, 90)}
    learned = {"forget": rng.normal(0.3, 0.2, 60), "held_out": rng.normal(0, 0.2, 90)}

    def seen(losses: np.ndarray) -> Signals:
        logits = np.stack([np.zeros(len(losses)), np.log(np.expm1(losses))], axis=1)
        return signals(logits, np.zeros(len(losses), dtype=np.int64))

    model = {name: seen(losses - learned[name]) for name, losses in difficulty.items()}
    found = attack_by_reference(model, difficulty, pairing(60, 90), spec=AuditSpec(replicates=100))

    gained = np.concatenate([difficulty[name] - model[name].loss for name in ("forget", "held_out")])
    members = np.repeat([1, 0], [60, 90])
    assert found.name == "reference"
    assert found.auc.value == pytest.approx(roc_auc_score(members, gained))
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(members, gained > 0))
    losses = np.concatenate([model[name].loss for name in ("forget", "held_out")])
    assert found.auc.value > 0.8 > 0.6 > roc_auc_score(members, -losses)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_auc_with_weights_and_ties_is_scikit_learn_s(seed: int, ties: bool) -> None:
    f, v = scores(seed, ties=ties)
    rng = np.random.default_rng(seed)
    weights_f, weights_v = rng.integers(0, 4, (6, len(f))) * 1.0, rng.uniform(0, 2, (6, len(v)))
    labels, values = np.repeat([1, 0], [len(f), len(v)]), np.concatenate([f, v])
    expected = [
        roc_auc_score(labels, values, sample_weight=np.concatenate(rows))
        for rows in zip(weights_f, weights_v, strict=True)
    ]
    assert auc(f, v, weights_f, weights_v) == pytest.approx(expected, abs=1e-12)


def test_the_auc_is_the_share_of_pairs_won() -> None:
    f, v = scores(3, 20, 30, ties=True)
    won = np.mean((f[:, None] > v) + (f[:, None] == v) / 2)
    assert auc(f, v, np.ones((1, 20)), np.ones((1, 30)))[0] == pytest.approx(won)


def test_balanced_accuracy_is_scikit_learn_s() -> None:
    f, v = scores(0)
    expected = balanced_accuracy_score(np.repeat([1, 0], [80, 150]), np.concatenate([f, v]) > 0.3)
    assert attacked(f, v, threshold=0.3).balanced_accuracy.value == pytest.approx(expected)


def test_the_balanced_accuracy_s_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = zip(rng.binomial(60, 0.8, 1000), rng.binomial(200, 0.4, 1000), strict=True)
    found = [balanced_accuracy(wilson(a, 60, confidence=0.9), wilson(b, 200, confidence=0.9)) for a, b in drawn]
    assert 0.86 < np.mean([one.low <= 0.6 <= one.high for one in found]) < 0.94


def test_five_samples_that_all_lie_on_one_side_prove_nothing() -> None:
    v = np.random.default_rng(0).normal(size=500)
    found = attacked(np.full(5, 0.6), v).deciding
    assert not found["auc"].outside(0.4, 0.6)
    assert not found["balanced_accuracy"].outside(0.4, 0.6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2])
def test_the_true_positive_rate_at_a_false_positive_rate_is_the_best_allowed_by_brute_force(
    fpr: float, ties: bool
) -> None:
    f, v = scores(1, ties=ties)
    best = max(np.mean(f > t) for t in [-np.inf, *f, *v] if np.mean(v > t) <= fpr)
    assert tpr_at(f, v, np.ones((1, 80)), np.ones((1, 150)), fpr=fpr)[0] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_maximises_youden_s_index(seed: int) -> None:
    members, others = scores(seed, shift=1.0, ties=seed % 2 == 0)
    fpr, tpr, _ = whole_roc_curve(
        np.repeat([1, 0], [80, 150]), np.concatenate([members, others]), drop_intermediate=False
    )
    at = member_threshold(members, others)
    assert np.mean(members > at) - np.mean(others > at) == pytest.approx((tpr - fpr).max())


def test_the_interval_is_as_wide_as_theory_says() -> None:
    f, v = scores(0, 150, 500, shift=0.0)
    found = attacked(f, v).deciding["auc"]
    assert (found.high - found.low) / 2 == pytest.approx(auc_half_width(150, 500, confidence=0.9), rel=0.15)


def test_the_half_width_is_mann_whitney_s_under_the_null() -> None:
    assert auc_half_width(40, 90, confidence=0.9) == pytest.approx(1.645 * null_aucs(40, 90).std(), rel=0.03)


@pytest.mark.parametrize(("n", "m"), [(40, 500), (60, 500), (400, 500)])
def test_the_power_is_how_often_a_model_that_never_saw_the_samples_passes(n: int, m: int) -> None:
    of, thresholds = pairing(n, m), Thresholds()
    margin, half = membership_margin(of, thresholds), auc_half_width(n, m, confidence=thresholds.confidence)
    passed = np.abs(null_aucs(n, m) - 0.5) + half <= margin
    assert membership_power(of, thresholds) == pytest.approx(passed.mean(), abs=0.03)


def test_the_power_is_0_where_no_interval_fits() -> None:
    assert membership_power(pairing(5, 500), Thresholds()) == 0
    assert membership_power(pairing(1, 1), Thresholds()) == 0


def test_some_50_samples_are_enough_and_30_pass_in_one_audit_of_six() -> None:
    """What docs/methods.md and decision 19 say, beside 500 held-out samples as of the digits."""
    assert membership_power(pairing(30, 500), Thresholds()) == pytest.approx(1 / 6, abs=0.02)
    assert (
        membership_power(pairing(49, 500), Thresholds())
        < LEAST_POWER
        <= membership_power(pairing(50, 500), Thresholds())
    )


def test_a_shift_in_either_direction_leaves_one_half() -> None:
    f, v = scores(2, 150, 500, shift=1.0)
    assert attacked(f, v).deciding["auc"].low > 0.6
    assert attacked(-f, -v).deciding["auc"].high < 0.4


def test_rates_are_suppressed_where_too_few_non_members_support_them() -> None:
    f, v = scores(0, 50, 999)
    assert attacked(f, v).tpr_at_1_fpr is None
    f, v = scores(0, 50, 1000)
    found = attacked(f, v)
    assert found.tpr_at_1_fpr is not None
    assert found.tpr_at_1_fpr.low <= found.tpr_at_1_fpr.value <= found.tpr_at_1_fpr.high
    assert found.tpr_at_01_fpr is None


def test_spread_sees_what_an_auc_of_one_half_hides() -> None:
    rng = np.random.default_rng(0)
    f, v = np.concatenate([rng.normal(-4, 1, 75), rng.normal(4, 1, 75)]), rng.normal(0, 1, 500)
    assert attacked(f, v).deciding["auc"].within(0.4, 0.6)
    near = spread_scores({"forget": f, "held_out": v}, pairing(150, 500))
    assert attacked(near["forget"], near["held_out"]).deciding["auc"].outside(0.4, 0.6)


def test_a_class_is_compared_with_held_out_samples_of_that_class() -> None:
    forget, held_out = np.full(60, 3), np.repeat(np.arange(10), 50)
    found = pair(forget, held_out, max_samples=5000, replicates=100, rng=np.random.default_rng(0))
    assert found.matched
    assert set(held_out[found.held_out]) == {3}
    assert found.effective == pytest.approx(50)


def test_weights_give_the_held_out_samples_the_forget_set_s_mix() -> None:
    rng = np.random.default_rng(0)
    forget, held_out = rng.choice(4, 400, p=[0.7, 0.1, 0.1, 0.1]), rng.choice(4, 900)
    found = pair(forget, held_out, max_samples=5000, replicates=100, rng=rng)
    mix = np.bincount(held_out[found.held_out], weights=found.weights) / found.weights.sum()
    assert mix == pytest.approx(np.bincount(forget) / 400)


def test_a_mix_that_differs_by_chance_is_left_alone_and_a_class_nobody_held_out_is_counted() -> None:
    rng = np.random.default_rng(0)
    assert not pair(rng.choice(10, 150), rng.choice(10, 500), max_samples=5000, replicates=100, rng=rng).matched
    missing = pair(np.repeat([0, 9], [200, 5]), rng.choice(3, 500), max_samples=5000, replicates=100, rng=rng)
    assert missing.unmatched == 5
    alone = pair(np.full(30, 9), rng.choice(3, 500), max_samples=5000, replicates=100, rng=rng)
    assert (alone.matched, alone.unmatched, len(alone.forget)) == (False, 30, 30)
    assert not alone.comparable
    assert missing.comparable


def test_class_mixes_differ_by_more_than_chance_in_about_one_case_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    differing = sum(class_mix_differs(rng.choice(5, 120), rng.choice(5, 400)) for _ in range(1000))
    assert stats.binomtest(differing, 1000, 0.01).pvalue > 0.01
    assert class_mix_differs(rng.choice(5, 120, p=[0.6, 0.1, 0.1, 0.1, 0.1]), rng.choice(5, 400))
    assert not class_mix_differs(np.zeros(9, dtype=np.int64), np.zeros(20, dtype=np.int64))


def test_the_roc_curve_keeps_its_area_and_its_ends_when_thinned() -> None:
    f, v = scores(0, 2000, 3000)
    curve = roc_curve(f, v, pairing(2000, 3000, replicates=100))
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert len(curve.fpr) <= 202
    expected = roc_auc_score(np.repeat([1, 0], [2000, 3000]), np.concatenate([f, v]))
    assert trapezoid(curve.fpr, curve.tpr) == pytest.approx(expected, abs=0.003)


def test_the_margin_narrows_with_the_samples_between_its_bounds() -> None:
    widths = [membership_margin(pairing(n, 3 * n, replicates=100), Thresholds()) for n in (5, 150, 500, 4000)]
    assert widths[0] == widths[1] == 0.1
    assert 0.05 < widths[2] < 0.1
    assert widths[3] == 0.05


def test_a_part_of_a_large_set_is_used() -> None:
    rng = np.random.default_rng(0)
    found = pair(np.zeros(900, dtype=np.int64), np.zeros(700, dtype=np.int64), max_samples=300, replicates=100, rng=rng)
    assert (len(found.forget), len(found.held_out)) == (300, 300)
    assert found.forget_counts.shape == (100, 300)
