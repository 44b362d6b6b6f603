"""Is a model's answer on the forgotten samples nearer to what models that never saw them say, or to what the original said? [ours]

For a sample i, z is the new model's signal (margin, or minus the loss), o the original's, m the one that the law of unseen samples
expects by its references (`unlearning.audit.reference_test`). Signals count as no lower than the lowest twentieth of held-out ones.

    N = mean of |z − o| − |z − m|        above 0: nearer to models that never saw the samples; below 0: nearer to the original

Two questions are asked of N. If each sample were as near to the one as to the other, its term would have either sign as often: the
sign-flip test over the samples, in which the signs of one person's are as much alike as the law's residuals. And what does another
model reach that never saw them? The law gives that: z = m + e, with a residual and an error of the plane.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats
from unlearning.audit.reference_test import Alike, ReferenceSignals, floors_of, in_parts, of_several, unseen_law
from unlearning.specs.audit import Thresholds

_EXACT = 11
"""Up to so many samples all signs are tried."""
_DRAWS = 2000
"""Draws of signs, and of another model's answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearness:
    """N of one model, and what it is compared with; all but `p_value` in the signal's unit.

    unseen: the mean of N of models that never saw the samples. low: what 95 % of these exceed. original: N of the original.
    p_value: the probability of as large an N if each sample were as near to the one as to the other. to_original: N is below 0, and
    at most one in twenty models that never saw the samples is as low. samples: how many were compared. unit: of the signal.
    """

    value: float
    unseen: float
    low: float
    original: float
    p_value: float
    to_original: bool
    samples: int
    unit: str = "nats"


def nearness(
    *,
    forget: ReferenceSignals,
    original: Floats,
    held_out: ReferenceSignals,
    thresholds: Thresholds,
    unit: str = "nats",
    seed: int = 0,
) -> Nearness:
    """Compare the new model's signals with the original's, (n,), and with those of models that never saw the samples.

    forget, held_out: the new model's signals beside those of the reference models. The level is `reference_level`.
    """
    floors = floors_of(held_out)
    forget, original = forget.above(floors), np.maximum(original, floors[0])
    law = unseen_law(held_out.above(floors))
    expected = law.expected(forget.unseen, forget.gap)
    rng = np.random.default_rng([seed, 13])
    terms = np.abs(forget.model - original) - np.abs(forget.model - expected)
    value = float(terms.mean())
    drawn = (sum(each) for each in law.draw(forget.unseen, forget.gap, rng, _DRAWS, people=forget.people))
    reached = np.concatenate([(np.abs(expected + others - original) - np.abs(others)).mean(axis=1) for others in drawn])
    counts, person = of_several(forget.people)
    alike = law.alike if (counts > 1).any() else None
    signs = _signs(len(terms), rng) if alike is None else _signs_by_person(person, alike, rng)
    flipped = np.concatenate([some @ np.abs(terms) / len(terms) for some in signs])
    return Nearness(
        value=value,
        unseen=float(reached.mean()),
        low=float(np.quantile(reached, thresholds.reference_level)),
        original=-float(np.abs(original - expected).mean()),
        p_value=float((flipped >= value - 1e-12).mean()),
        to_original=value < 0 and float((reached <= value).mean()) <= thresholds.reference_level,
        samples=len(terms),
        unit=unit,
    )


def _signs(count: int, rng: np.random.Generator) -> Iterator[Floats]:
    """List all signs of few samples, (2^n, n), or draw some, (k, n) at a time; those as they are count among the drawn."""
    if count <= _EXACT:
        yield np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
        return
    yield np.ones((1, count))
    for draws in in_parts(_DRAWS, count):
        yield _coins(draws, count, rng)


def _signs_by_person(person: NDArray[np.int64], alike: Alike, rng: np.random.Generator) -> Iterator[Floats]:
    """Draw signs, (k, n) at a time, of which two of one person are as `alike` as residuals; those as they are come first.

    person: whom each of n samples belongs to, (n,), from 0.
    """
    yield np.ones((1, len(person)))
    for draws in in_parts(_DRAWS, len(person)):
        own, theirs = (_coins(draws, count, rng) for count in (len(person), int(person.max()) + 1))
        yield np.where(rng.random(own.shape) < np.sqrt(alike.draw(draws, rng)), theirs[:, person], own)


def _coins(draws: int, count: int, rng: np.random.Generator) -> Floats:
    return rng.choice([-1.0, 1.0], size=(draws, count))
