"""MI as the papers print it: the share of D_f that a support-vector attack calls non-member."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from unlearning.audit.intervals import Floats, Interval, wilson
from unlearning.audit.signals import Signals

Mode = Literal["salun", "corrected"]


def paper_mi(
    *,
    remain: Signals,
    test: Signals,
    forget: Signals,
    mode: Mode,
    seeds: int = 3,
    most: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The share, 0 to 1, of D_f called non-member by an RBF support-vector classifier (C = 3, gamma "auto") on p_y.

    "salun": members are the first |D_t| of D_r in their order, once, unscaled, as in SalUn's and LTU's evaluation.
    "corrected": members are drawn from D_r with D_t's class mix, as many as non-members; p_y standardised; the mean of `seeds`
    draws. Both look at no more than `most` of D_t, since the fit's time grows with the square. The interval is Wilson's over D_f.
    """
    if mode == "salun":
        n = min(len(remain), len(test), most)
        share = _non_members(remain.confidence[:n], test.confidence[: min(len(test), most)], forget.confidence)
    else:
        shares = [
            _corrected(remain, test, forget, most=most, rng=np.random.default_rng([seed, draw]))
            for draw in range(seeds)
        ]
        share = float(np.mean(shares))
    return wilson(share * len(forget), len(forget), confidence=confidence)


def _corrected(remain: Signals, test: Signals, forget: Signals, *, most: int, rng: np.random.Generator) -> float:
    members, non_members = [], []
    outside = rng.permutation(len(test))[:most]
    for label in np.unique(test.targets[outside]):
        here = outside[test.targets[outside] == label]
        pool = rng.permutation(np.flatnonzero(remain.targets == label))
        n = min(len(here), len(pool))
        members.append(pool[:n])
        non_members.append(here[:n])
    inside, outside = np.concatenate(members), np.concatenate(non_members)
    if not len(inside):
        return 0.0
    known = np.concatenate([remain.confidence[inside], test.confidence[outside]])
    centre, scale = known.mean(), known.std() or 1.0
    return _non_members(
        (remain.confidence[inside] - centre) / scale,
        (test.confidence[outside] - centre) / scale,
        (forget.confidence - centre) / scale,
    )


def _non_members(members: Floats, non_members: Floats, asked: Floats) -> float:
    # Without a seed of its own, fit() draws one from numpy's global state, which is the caller's.
    attack = SVC(C=3.0, gamma="auto", kernel="rbf", random_state=0)
    known: Floats = np.concatenate([members, non_members])[:, None]
    labels: NDArray[np.int64] = np.repeat([1, 0], [len(members), len(non_members)])
    attack.fit(known, labels)
    return float(1 - attack.predict(asked[:, None]).mean())
