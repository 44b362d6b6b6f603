"""How long a method runs on a large forget set: long enough to see each sample several times [ours]."""

import dataclasses
from typing import TypeVar

from unlearning.specs.rules import MOST

S = TypeVar("S", LTU, IEU)


def lengthened(spec: S, *, forget: int) -> S:
    """The spec with its phases longer in proportion, where `steps` of `batch_size` make fewer than `passes` over the forget set.

    forget: how many samples are to be forgotten. On half of the training set 40 steps see each of them once or twice, and most stay
    as known as they were. A million steps are the most.
    """
    factor = min(max(1.0, spec.passes * forget / (spec.steps * spec.batch_size)), MOST / spec.steps)
    return dataclasses.replace(
        spec, steps=round(factor * spec.steps), repair_steps=round(factor * spec.repair_steps), passes=0.0
    )
