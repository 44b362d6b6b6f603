"""What the operator's commands show while they work."""

from unittest.mock import create_autospec

import pytest

from expunge.cli.console import ProgressDisplay
from expunge.cli.operator import show_references
from unlearning.steps import Progress


@pytest.mark.parametrize(("step", "run", "done"), [(0, 0.5, 0), (6, 0.25, 6), (7, 1.0, 8)])
def test_a_reference_model_counts_as_trained_at_the_end_of_its_training(step: int, run: float, done: int) -> None:
    display = create_autospec(ProgressDisplay, instance=True)
    progress = Progress(phase="references", step=step, total=8, metrics={"run": run})

    show_references(display, display.add_task("Training"), progress)

    (shown,) = display.update.call_args_list
    assert shown.kwargs == {"total": 8, "completed": step + run, "detail": f"({done} of 8 done)"}
