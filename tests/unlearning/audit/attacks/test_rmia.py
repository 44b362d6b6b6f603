"""RMIA against its definition sample by sample, and where members are known."""

import numpy as np
from sklearn.metrics import roc_auc_score

from unlearning.audit.attacks.rmia import rmia, typical_offline, typical_online


def test_the_score_is_the_share_of_the_population_that_the_sample_dominates() -> None:
    rng = np.random.default_rng(0)
    target, typical = rng.uniform(0.01, 1, (2, 30))
    population_target, population_typical = rng.uniform(0.01, 1, (2, 40))
    found = rmia(target, typical, population_target=population_target, population_typical=population_typical, gamma=1.7)
    wanted = [
        np.mean([(x / p) / (z / q) >= 1.7 for z, q in zip(population_target, population_typical, strict=True)])
        for x, p in zip(target, typical, strict=True)
    ]

    np.testing.assert_allclose(found, wanted)


def test_the_typical_probabilities_are_the_papers_formulas() -> None:
    probabilities = np.array([[0.9, 0.2], [0.5, 0.4], [0.7, 0.6], [0.3, 0.8]])
    members = np.array([[True, False], [False, True], [True, False], [False, True]])

    np.testing.assert_allclose(
        typical_offline(probabilities, members, a=0.3), [(1.3 * 0.4 + 0.7) / 2, (1.3 * 0.4 + 0.7) / 2]
    )
    np.testing.assert_allclose(typical_online(probabilities, members), [(0.8 + 0.4) / 2, (0.6 + 0.4) / 2])


def test_known_members_are_found_and_without_any_there_is_nothing_to_find() -> None:
    rng = np.random.default_rng(1)
    n, m, k = 1000, 500, 16
    difficulty, population = rng.uniform(0.1, 0.9, n), rng.uniform(0.1, 0.9, m)
    members = np.stack([rng.permutation(n) < n // 2 for _ in range(k)])
    truth = rng.permutation(n) < n // 2

    def shown(hard: np.ndarray, inside: np.ndarray) -> np.ndarray:
        return np.clip(hard * (1 + 0.5 * inside) * rng.lognormal(0, 0.1, inside.shape), 0, 1)

    references, others = shown(difficulty, members), shown(population, np.zeros((k, m)))
    aucs = []
    for inside in (truth, np.zeros(n)):
        score = rmia(
            shown(difficulty, inside),
            typical_offline(references, members, a=0.3),
            population_target=shown(population, np.zeros(m)),
            population_typical=typical_offline(others, np.zeros((k, m), dtype=bool), a=0.3),
            gamma=1.0,
        )
        aucs.append(roc_auc_score(truth, score))

    assert aucs[0] > 0.75
    # Three standard errors of an AUC of 0.5 on 500 and 500.
    assert abs(aucs[1] - 0.5) < 3 * (1001 / (12 * 500 * 500)) ** 0.5


def test_a_probability_of_zero_is_no_error() -> None:
    zero = np.zeros(2)

    assert np.isfinite(rmia(zero, zero, population_target=zero, population_typical=zero, gamma=2.0)).all()
