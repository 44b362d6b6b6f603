import numpy as np
import pytest
from sklearn.svm import SVC

from unlearning.audit.measures import paper_mi
from unlearning.audit.signals import Signals, signals
from unlearning.specs.audit import AuditSpec


def seen(n: int, sharpness: float, seed: int) -> Signals:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 4))
    logits[np.arange(n), targets] += sharpness
    return signals(logits, targets)


def test_salun_s_mode_is_the_support_vector_attack_on_the_first_of_the_remaining_set() -> None:
    remain, test, forget = seen(500, 4, 0), seen(200, 1, 1), seen(90, 2, 2)
    known = np.concatenate([remain.confidence[:200], test.confidence])[:, None]
    reference = SVC(C=3, gamma="auto", kernel="rbf").fit(known, np.repeat([1, 0], 200))
    expected = 1 - reference.predict(forget.confidence[:, None]).mean()
    found = paper_mi({"remain": remain, "test": test, "forget": forget}, mode="salun", spec=AuditSpec())
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("mode", ["salun", "corrected"])
def test_members_are_recognised_and_non_members_are_not(mode: str) -> None:
    others = {"remain": seen(800, 5, 0), "test": seen(400, 1, 1)}
    known = paper_mi({**others, "forget": seen(200, 5, 2)}, mode=mode, spec=AuditSpec())  # type: ignore[arg-type]
    strange = paper_mi({**others, "forget": seen(200, 1, 3)}, mode=mode, spec=AuditSpec())  # type: ignore[arg-type]
    assert known.high < 0.35
    assert strange.low > 0.55


def test_the_corrected_mode_is_the_same_for_the_same_seed() -> None:
    sets = {"remain": seen(500, 4, 0), "test": seen(200, 1, 1), "forget": seen(90, 2, 2)}
    first, again = (paper_mi(sets, mode="corrected", spec=AuditSpec(), seed=3) for _ in range(2))
    assert first == again


def test_a_remaining_set_smaller_than_the_test_set_will_do() -> None:
    sets = {"remain": seen(50, 4, 0), "test": seen(200, 1, 1), "forget": seen(1, 4, 2)}
    found = paper_mi(sets, mode="salun", spec=AuditSpec())
    assert 0 <= found.low <= found.high <= 1
