"""A run as a generator of steps: the progress that it yields, the outcome that it returns, and what drives it."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from unlearning.data.loading import WAITED


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
    running = map_progress(steps, on_progress)
    while True:
        try:
            next(running)
        except StopIteration as end:
            result: T = end.value
            return result


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
