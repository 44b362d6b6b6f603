"""What the operator's commands show while they work."""

import pytest

from expunge.cli.console import ProgressDisplay
from expunge.cli.operator import show_references
from unlearning.steps import Progress


@pytest.mark.parametrize(("step", "run", "done"), [(0, 0.5, 0), (6, 0.25, 6), (7, 1.0, 8)])
def test_a_reference_model_counts_as_trained_at_the_end_of_its_training(step: int, run: float, done: int) -> None:
    display = ProgressDisplay()
    task = display.add_task("Training reference models")

    show_references(display, task, Progress(phase="references", step=step, total=8, metrics={"run": run}))

    shown = display.tasks[task]
    assert (shown.completed, shown.total) == (step + run, 8)
    assert shown.fields["detail"] == f"({done} of 8 done)"
