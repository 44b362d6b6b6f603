"""One unlearning run: what a method gets, what it yields, what it returns."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.specs.training import Recipe
from unlearning.state import State

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step done, of as many as there are to do as things stand.

    metrics: figures worth showing while the run goes on (losses, accuracies, seconds).
    """

    phase: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended.

    stopped_because: "matched" (the calibrated stop is satisfied), "budget" (out of steps), "utility" (accuracy would fall
        below what is allowed) or "completed" (the method has no stop).
    setup_seconds: time spent before the first step, by what it was spent on (guiding models, neighbour search).
    """

    steps: int
    stopped_because: str
    setup_seconds: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


Steps = Generator[Progress, None, Outcome]


@dataclass(kw_only=True, slots=True, eq=False)
class Task:
    """What a method works on. It changes `model` in place, and nothing else.

    forget: D_f. remain: D_r, without anything ever forgotten. guide: the part of D_v that guiding attacks learn from.
    criterion: the part of D_v that the calibrated stop compares with. build, recipe: how to train the model anew.
    state: what the method keeps for a checkpoint, and goes on from in a resumed run.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    objective: Objective
    recipe: Recipe
    forget: SampleSet
    remain: SampleSet
    guide: SampleSet
    criterion: SampleSet
    seed: int = 0
    state: State = field(default_factory=State)

    def check(self) -> None:
        """Raise MethodRefused where a set is empty or where two sets share a sample."""
        sets = {"forget": self.forget, "remaining": self.remain, "guide": self.guide, "criterion": self.criterion}
        for name, samples in sets.items():
            if not len(samples):
                raise MethodRefused(f"The {name} set is empty; unlearning needs at least one sample in it.")
        seen: dict[str, str] = {}
        for name, samples in sets.items():
            for sample in samples.ids:
                if sample in seen:
                    raise MethodRefused(
                        f"The {name} set and the {seen[sample]} set share a sample; they must be disjoint."
                    )
                seen[sample] = name


def run_to_completion(steps: Generator[P, None, R], show: Callable[[P], None] = lambda step: None) -> R:
    """Run a generator to its end and return its result. show: called with each value that it yields."""
    while True:
        try:
            show(next(steps))
        except StopIteration as end:
            result: R = end.value
            return result
