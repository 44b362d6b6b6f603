import contextlib
from collections.abc import Generator, Iterator

import pytest
import torch

from unlearning.steps import Figures, Progress, each_step_in, map_progress, run_to_completion


class Run:
    """A generator of three steps that notes when it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def steps(self) -> Generator[int, None, str]:
        try:
            yield from (1, 2, 3)
        finally:
            self.closed = True
        return "outcome"


def test_a_run_to_completion_shows_every_step_and_returns_the_outcome() -> None:
    seen: list[int] = []

    assert run_to_completion(Run().steps(), seen.append) == "outcome"
    assert seen == [1, 2, 3]


def test_an_error_while_showing_a_step_closes_the_run() -> None:
    def fail(step: int) -> None:
        raise RuntimeError("on purpose")

    run = Run()
    with pytest.raises(RuntimeError, match="on purpose"):
        run_to_completion(run.steps(), fail)

    assert run.closed


def test_mapped_steps_keep_their_number_and_their_outcome() -> None:
    seen: list[str] = []

    assert run_to_completion(map_progress(Run().steps(), str), seen.append) == "outcome"
    assert seen == ["1", "2", "3"]


def test_each_step_runs_in_a_context_that_its_caller_is_not_in() -> None:
    inside: list[bool] = [False]

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def steps() -> Generator[bool, None, bool]:
        yield inside[0]
        return inside[0]

    seen: list[tuple[bool, bool]] = []

    assert run_to_completion(each_step_in(steps(), context), lambda step: seen.append((step, inside[0]))) is True
    assert seen == [(True, False)]


@pytest.mark.parametrize(
    "wrap", [lambda steps: map_progress(steps, str), lambda steps: each_step_in(steps, contextlib.nullcontext)]
)
def test_closing_the_wrapper_closes_the_run(wrap: object) -> None:
    run = Run()
    wrapped = wrap(run.steps())  # type: ignore[operator]  # a function of the steps
    next(wrapped)
    wrapped.close()

    assert run.closed


def test_figures_are_read_from_a_tensor_when_they_are_asked_for_and_not_before() -> None:
    class Device(torch.Tensor):
        """Counts how often the processor waits for a value."""

        read = 0

        def __float__(self) -> float:
            Device.read += 1
            return super().__float__()

    loss = torch.tensor(0.5, requires_grad=True).as_subclass(Device)
    figures = Figures(loss=loss, rate=2.0)
    progress = Progress(phase="train", step=1, total=2, metrics=figures)
    assert Device.read == 0

    assert dict(progress.metrics) == {"loss": 0.5, "rate": 2.0}
    assert Device.read == 1
    assert len(figures) == 2
