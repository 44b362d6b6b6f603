"""What a user's factory returns: everything that Expunge must know about a model and its data."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet, partition
from unlearning.errors import InvalidWorkload
from unlearning.specs.training import Recipe


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workload:
    """A model that can be trained, served and made to forget.

    build: the architecture with fresh weights. train: D, each sample with its ID. held_out: D_v, never trained on.
    test: D_t, never used for any decision. objective: what the model is trained for. recipe: how it is trained.
    Raises InvalidWorkload where a sample stands in two sets.
    """

    name: str
    build: Callable[[], nn.Module]
    train: SampleSet
    held_out: SampleSet
    test: SampleSet
    objective: Objective
    recipe: Recipe

    def __post_init__(self) -> None:
        sets = (set(self.train.ids), set(self.held_out.ids), set(self.test.ids))
        if len(set.union(*sets)) != sum(map(len, sets)):
            raise InvalidWorkload(
                f"Workload {self.name!r}: the train, held-out and test sets share samples; they must be disjoint."
            )
        if min(map(len, sets)) == 0 or len(self.held_out) < 3:
            raise InvalidWorkload(
                f"Workload {self.name!r}: train, held-out and test sets must not be empty (held-out: 3 or more)."
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """D_v, split once: nobody judges with data that somebody else has learnt from.

    guide: trains the guiding membership models. criterion: feeds the calibrated stop. audit: for the audit alone.
    """

    guide: SampleSet
    criterion: SampleSet
    audit: SampleSet


def split_held_out(held_out: SampleSet, *, seed: int = 0) -> HeldOut:
    """Three disjoint parts: a quarter each for guide and criterion, half for the audit."""
    quarter = max(1, len(held_out) // 4)
    guide, criterion, audit = partition(held_out, (quarter, quarter, len(held_out) - 2 * quarter), seed=seed)
    return HeldOut(guide=guide, criterion=criterion, audit=audit)
