"""How reference predictions are prepared (docs/methods.md §8). All defaults are [ours], chosen on validation seeds."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from unlearning.specs.rules import PositiveShare, check_ranges, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePlan:
    """How many reference models are trained, and on what.

    folds: K parts of the training and held-out data; each model of a round is trained without one of them. Samples of one subject
        are in one fold, and so are near-copies.
    rounds: independent draws of the folds whose predictions the methods aim at.
    audit_rounds: further draws for the audit, which never sees the ones that a method aimed at.
    epochs: of each training, as a share of the model's epochs. Preparing costs (rounds + audit_rounds)·(folds − 1)·epochs plain
        trainings, and `epochs` for each of the classes.
    classes: classes that may be forgotten as a whole. For each of them one more model is trained, on the training set without it;
        what that says of the class's samples is what methods aim at where the whole class is forgotten.
    near_copies: samples whose inputs are nearer to one another than this share of the distance that is usual between a held-out
        sample and the nearest training sample count as one subject; 0 compares nothing.
    """

    folds: Annotated[int, Ge(2), Le(100)] = 2
    rounds: Annotated[int, Ge(1), Le(100)] = 2
    audit_rounds: Annotated[int, Ge(1), Le(100)] = 2
    epochs: PositiveShare = 0.5
    near_copies: Annotated[float, Ge(0), Le(0.5)] = 0.3
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        distinct = len(set(self.classes)) == len(self.classes) and all(number >= 0 for number in self.classes)
        require(distinct, "classes", "distinct class numbers from 0", list(self.classes))

    @property
    def trainings(self) -> int:
        """How many models are trained."""
        return self.fold_trainings + len(self.classes)

    @property
    def fold_trainings(self) -> int:
        """How many of them are trained without a fold."""
        return (self.rounds + self.audit_rounds) * self.folds
