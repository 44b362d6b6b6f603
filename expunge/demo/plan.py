"""What the demo does, fixed before it runs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

MODEL = "digits"
"""The name the model is registered under."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """reference: the workload. workloads: the allow-list it comes from, comma-separated.

    first_share, second_share: of the training samples, forgotten by the first request with LTU and by the second with IEU.
    seed: of the choice of these samples, and of the original's training; the retrained models have the next ones.
    """

    reference: str = "examples.digits:workload"
    workloads: str = "examples"
    first_share: float = 0.05
    second_share: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ForgetSets:
    """The sample IDs of the two requests; they share none."""

    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def both(self) -> tuple[str, ...]:
        """What is forgotten after the second request."""
        return self.first + self.second


def forget_sets(training: Sequence[str], plan: Plan) -> ForgetSets:
    """Choose the samples of both requests at random: the same in every process."""
    first, second = (max(1, round(share * len(training))) for share in (plan.first_share, plan.second_share))
    chosen = random.Random(plan.seed).sample(training, first + second)
    return ForgetSets(tuple(chosen[:first]), tuple(chosen[first:]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One model to train. without: how many of the two requests it never sees the samples of."""

    seed: int
    without: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A model on disk. seconds: of its training; for an unlearned one, of the unlearning."""

    path: str
    sha256: str
    seconds: float
