"""Control sets: held-out samples that relearning compares with the forget set, of its size and its class mix or difficulty."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats
from unlearning.data.samples import SampleSet, dealt

Places = NDArray[np.int64]
"""Positions of samples in their set."""

MANY = 39
"""Control sets of a forget set of few samples: the least number at which a test by ranks can reject at 2.5 %."""
NEAREST = 5
"""Held-out samples nearest in difficulty, of which a control is one. Of few samples there are `MANY`, to have as many sets."""
_ENOUGH = 2
"""Quick control sets after which no more are drawn."""
_TRIES = 10
"""Draws for each set that is wanted, before there are taken to be no more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Difficulty:
    """The mean signal of reference models that did not see each sample: forget, (n,), and held_out, (m,). Low is hard."""

    forget: Floats
    held_out: Floats


def class_sizes(forget: NDArray[np.int64], held_out: NDArray[np.int64], *, max_samples: int) -> dict[int, int]:
    """Compute how many samples of each class to relearn: in D_f's mix, at most `max_samples`, and half of D_v's of each class.

    Half, so that the control sets differ and show how much the delay varies by chance.
    """
    share = min(1.0, max_samples / len(forget))
    labels, counts = np.unique(forget, return_counts=True)
    available = {int(label): math.ceil(int((held_out == label).sum()) / 2) for label in labels}
    exact = {int(label): float(count) * share for label, count in zip(labels, counts, strict=True)}
    sizes = {label: min(max(1, round(exact[label])), available[label]) for label in available}
    while sum(sizes.values()) > max_samples and max(sizes.values()) > 1:
        # Rounding gave too many: take one from the class that got most beyond its share.
        sizes[max((label for label in sizes if sizes[label] > 1), key=lambda label: sizes[label] - exact[label])] -= 1
    return {label: size for label, size in sizes.items() if size > 0}


def draw_by_class(
    samples: SampleSet, sizes: dict[int, int], rng: np.random.Generator, *, count: int = 0, sets: int = 1
) -> list[Places]:
    """Draw sets of `sizes[label]` samples of each class at random; without sizes `count` samples of any class.

    Each set is as many positions in `samples`. No sample is in a second set before all of its class have been in one.
    """
    targets = samples.targets.cpu().numpy() if sizes else None
    places = [(np.flatnonzero(targets == label), size) for label, size in sizes.items()]
    parts = [_deal(each, size, rng, sets=sets) for each, size in places or [(np.arange(len(samples)), count)]]
    return [np.concatenate(of_set) for of_set in zip(*parts, strict=True)]


def _deal(places: Places, size: int, rng: np.random.Generator, *, sets: int) -> list[Places]:
    """Deal out sets of `size` places, (size,) each."""
    found = itertools.islice(dealt(lambda: rng.permutation(places).tolist(), size), sets)
    return [np.array(each, dtype=np.int64) for each in found]


def overlap(sets: Sequence[Places]) -> float:
    """Compute the mean share of a set that another one has too, over all pairs, 0 to 1; 0 for a single set."""
    shares = [len(np.intersect1d(one, other)) / len(one) for one, other in itertools.combinations(sets, 2)]
    return float(np.mean(shares)) if shares else 0.0


def draw_as_hard(difficulty: Difficulty, rng: np.random.Generator, *, count: int, nearest: int = NEAREST) -> Places:
    """Draw `count` forget samples and, for each, one of the `nearest` held-out samples in difficulty, none of them twice."""
    wanted = rng.choice(difficulty.forget, size=count, replace=count > len(difficulty.forget))
    order = np.argsort(difficulty.held_out, kind="stable")
    rank = np.searchsorted(difficulty.held_out[order], wanted)
    free = np.ones(len(order), dtype=np.bool_)
    chosen = []
    for value, middle in zip(wanted, rank, strict=True):
        # As many on either side as are asked for and may be taken already.
        around = order[max(0, middle - nearest - count) : middle + nearest + count]
        around = around[free[around]]
        similar = around[np.argsort(np.abs(difficulty.held_out[around] - value), kind="stable")][:nearest]
        place = int(rng.choice(similar))
        free[place] = False
        chosen.append(place)
    return np.array(chosen, dtype=np.int64)


def draw_distinct(draw: Callable[[], Places], wanted: int) -> list[Places]:
    """Draw until there are `wanted` sets of which no two are equal, or until no more are found."""
    found: dict[frozenset[int], Places] = {}
    for _ in range(_TRIES * wanted):
        places = draw()
        found.setdefault(frozenset(places.tolist()), places)
        if len(found) == wanted:
            break
    return list(found.values())


class QuickControls:
    """Count how many control sets are learned about as fast as the forget set is, one after another [ours].

    delay: of the forget set, steps. least: a control is quick if the forget set takes at least this share of its steps.

    If the model never saw the forget set, its delay is like that of another control set. Then `p_value` is at most p with a
    probability of at most p, whatever the distribution of the delays, ties included (Besag, Clifford, "Sequential Monte Carlo
    p-values", Biometrika 1991).
    """

    def __init__(self, delay: float, *, least: float) -> None:
        self.longest = (delay + 0.5) / least - 0.5
        self.drawn, self.quick, self._last = 0, 0, 0

    def add(self, delay: int) -> None:
        """Count another control set, by its delay; one that took longer than `longest` steps may have been left unfinished."""
        self.drawn += 1
        if delay <= self.longest + 1e-9 and not self.settled:
            self.quick += 1
            self._last = self.drawn

    @property
    def settled(self) -> bool:
        """Whether enough are quick: no more sets can make the forget set's delay unusually short."""
        return self.quick >= _ENOUGH

    @property
    def p_value(self) -> float:
        """The probability that a forget set never seen is learned so much faster than its controls."""
        return _ENOUGH / self._last if self.settled else (self.quick + 1) / (self.drawn + 1)
