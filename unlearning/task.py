"""One unlearning run: the task that a method gets, the progress that it yields, the outcome that it returns."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from unlearning.data.loading import WAITED
from unlearning.data.objectives import Objective, divided
from unlearning.data.references import ReferencePredictions
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining, check_targets
from unlearning.errors import MethodRefused
from unlearning.specs.training import Recipe
from unlearning.state import State

if TYPE_CHECKING:
    from unlearning.training.slices import KeepSlice, SliceCheckpoint


class Figures(Mapping[str, float]):
    """Figures of a step, by name: numbers, or scalar tensors that are read only when somebody asks for them.

    Reading a tensor of a GPU waits until the GPU has computed it, and a loop that waits in each step leaves the GPU idle between.
    """

    def __init__(self, **values: float | Tensor) -> None:
        self._values = {name: v.detach() if isinstance(v, Tensor) else v for name, v in values.items()}

    def __getitem__(self, name: str) -> float:
        return float(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step has been done, out of `total` steps as planned now.

    metrics: figures to show while the run goes on (losses, accuracies, seconds).
    waited: seconds since the step before that the run has waited for samples to be read (`with_waiting`).
    """

    phase: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    waited: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended.

    stopped_because: "matched" (the calibrated stop is satisfied), "budget" (all steps were taken), "utility" (more merit was
        lost than is allowed) or "completed" (the method has no stop).
    setup_seconds: time spent before the first step, by purpose (training guide attacks, neighbour search).
    kept: where the weights after each slice of a training are that was kept (`unlearning.training.slices`).
    """

    steps: int
    stopped_because: str
    setup_seconds: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept: Sequence[Mapping[str, Any]] = ()


Steps = Generator[Progress, None, Outcome]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


def run_to_completion(steps: Generator[A, None, T], on_progress: Callable[[A], object] = lambda progress: None) -> T:
    """Run a generator to its end and give what it returns.

    on_progress: called with what each step yields. What it raises ends the run; the generator is closed in any case.
    """
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            on_progress(progress)
    finally:
        steps.close()


def map_progress(steps: Generator[A, None, T], convert: Callable[[A], B]) -> Generator[B, None, T]:
    """Yield `convert` of what each step yields, and return what the steps return."""
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            yield convert(progress)
    finally:
        steps.close()


def with_waiting(steps: Steps) -> Steps:
    """Say with each step how long this process waited for samples to be read."""
    before = WAITED.seconds

    def note(progress: Progress) -> Progress:
        nonlocal before
        begun, before = before, WAITED.seconds
        return replace(progress, waited=before - begun)

    return (yield from map_progress(steps, note))


def each_step_in(
    steps: Generator[A, None, T], context: Callable[[], AbstractContextManager[object]]
) -> Generator[A, None, T]:
    """Run each step in a context of its own, which is left again at each yield."""
    try:
        while True:
            with context():
                try:
                    progress = next(steps)
                except StopIteration as end:
                    result: T = end.value
                    return result
            yield progress
    finally:
        steps.close()


@dataclass(kw_only=True, slots=True, eq=False)
class Task:
    """The input of a method. The method changes `model` in place, and nothing else.

    forget: D_f, which is read into memory. remain: D_r, without any sample forgotten earlier. guide: the part of D_v that guide
        attacks are trained on.
    criterion: the part of D_v that the calibrated stop compares with. build, recipe: how to train the model anew; the recipe is the
    workload's `training`.
    references: reference predictions of the forget set, in its order, or None.
    objective: divides each batch among the ranks of the job, if there are several.
    checkpoint: the latest weights of the model's training in slices that saw none of the forget set, or None. keep_slice: keeps the
        weights after a slice of a new training.
    adapters: the adapter that learned from each training sample, by the sample's ID; None where all parameters learn from all.
    state: the parts of the run that a training checkpoint holds; a resumed run starts from their saved values.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    objective: Objective
    recipe: Recipe | OwnTraining
    forget: SampleSet
    remain: SampleSet
    guide: SampleSet
    criterion: SampleSet
    seed: int = 0
    references: ReferencePredictions | None = None
    checkpoint: "SliceCheckpoint | None" = None
    keep_slice: "KeepSlice | None" = None
    adapters: Mapping[str, str] | None = None
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.forget, self.objective = self.forget.in_memory(), divided(self.objective)

    def check(self) -> None:
        """Check that the sets have targets for the objective, are not empty and disjoint, and that some parameter can be trained.

        Raises MethodRefused, or InvalidWorkload for targets that do not suit the objective.
        """
        sets = {"forget": self.forget, "remaining": self.remain, "guide": self.guide, "criterion": self.criterion}
        for name, samples in sets.items():
            if not len(samples):
                raise MethodRefused(f"The {name} set is empty; unlearning needs at least one sample in it.")
            check_targets(samples, self.objective, name=name)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise MethodRefused(
                "No parameter of the model requires a gradient, so nothing can be unlearned; unfreeze some in `build`."
            )
        if self.references is not None and len(self.references) != len(self.forget):
            rows = len(self.references)
            raise MethodRefused(f"There are {rows} reference predictions for {len(self.forget)} forget samples.")
        seen: dict[str, str] = {}
        for name, samples in sets.items():
            for sample in samples.ids:
                if sample in seen:
                    raise MethodRefused(
                        f"The {name} set and the {seen[sample]} set share a sample; they must be disjoint."
                    )
                seen[sample] = name
