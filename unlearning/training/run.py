"""What a training function of the owner gets for its run, and how it reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unlearning.random_state import random_values, restore_random
from unlearning.steps import Figures, Progress


@dataclass(kw_only=True, slots=True, eq=False)
class TrainingRun:
    """The `run` of a trainer, `train(model, data, run)`: what it gets, and how it reports.

    seed: of everything that the trainer draws. torch's, NumPy's and Python's global random states are seeded by it already.
    device: where model and data are. share: the share of the usual epochs to train for: 1, and less for reference models, which
    also need no preparation for unlearning.
    on_report: takes the progress. stop_asked: whether the training must end. saved: the last checkpoint, or None.
    A script makes one by itself, to train by the same function: `train(model, data, TrainingRun(seed=0))`.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    share: float = 1.0
    on_report: Callable[[Progress], None] = lambda progress: None
    stop_asked: Callable[[], bool] = lambda: False
    saved: dict[str, Any] | None = None
    step: int = 0

    @property
    def should_stop(self) -> bool:
        """Whether the training must end now: its job was cancelled, or the worker shuts down. Return, or call `report`."""
        return self.stop_asked()

    def report(self, step: int, total: int, **metrics: float | Tensor) -> None:
        """Report that `step` of `total` steps is done, 1 or more. Call it often: a job is shown, cancelled and stopped here.

        metrics: figures to show, such as `loss`: numbers or tensors of one number, which are read only when somebody looks.
        Raises TrainingStopped, which is no Exception, where the training must end: let it pass. Raises ValueError for a step that
        is not from 1 to `total`, and TypeError for a metric that is no number.
        """
        if not 1 <= step <= total:
            raise ValueError(f"run.report({step}, {total}): the step must be from 1 to the total.")
        self.step = int(step)
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise TypeError(f"run.report's {name} is a tensor of shape {tuple(value.shape)}; give one number.")
        figures = {name: value if isinstance(value, Tensor) else float(value) for name, value in metrics.items()}
        self.on_report(Progress(phase="train", step=self.step, total=int(total), metrics=Figures(**figures)))

    def checkpoint(self, **state: Any) -> None:
        """Keep a copy of a state from which `resume` can go on: all that the training needs, such as the `state_dict`s of model
        and optimiser, the number of the next epoch, and the generator's `get_state()`. Call it after an epoch, for instance.

        The state is tensors, numbers, strings and None, in lists and dicts. Raises TypeError for anything else.
        """
        copied = {name: _copied(value, name) for name, value in state.items()}
        self.saved = {"step": self.step, "state": copied, "random": random_values()}

    def resume(self) -> dict[str, Any] | None:
        """Return the state of the last `checkpoint` of an interrupted training; None if the training begins.

        The global random states are then those of that moment. Call it after everything that draws, right before the loop.
        """
        if self.saved is None:
            return None
        restore_random(self.saved["random"])
        found: dict[str, Any] = _copied(self.saved["state"], "state")
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the last checkpoint; Expunge writes it to disk."""
        return {"saved": self.saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoint of an earlier run."""
        self.saved = state_dict["saved"]


class TrainingStopped(BaseException):
    """A training must end at its report. Like GeneratorExit it is no Exception, so that `except Exception` lets it pass."""


def _copied(value: Any, name: str) -> Any:
    """Copy a state to the CPU: the next step changes its tensors."""
    match value:
        case Tensor():
            return value.detach().cpu().clone()
        case dict():
            return {_key(key, name): _copied(entry, f"{name}[{key!r}]") for key, entry in value.items()}
        case list() | tuple():
            return [_copied(entry, f"{name}[{place}]") for place, entry in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(
        f"run.checkpoint's {name} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings and None, in lists and "
        "dicts. Give the `state_dict()` of modules and optimisers, and the `get_state()` of generators."
    )


def _key(key: Any, name: str) -> Any:
    if isinstance(key, str | int | float | bool | None):
        return key
    raise TypeError(f"run.checkpoint's {name} has a {type(key).__name__} as a key; use strings or numbers.")
