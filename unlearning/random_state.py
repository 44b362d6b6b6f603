"""Run a generator's steps under a random state of their own, so that the process's random state does not change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from unlearning.state import State
from unlearning.task import Steps, each_step_in


def isolated(steps: Steps, *, seed: int, state: State | None = None) -> Steps:
    """Run each step of a generator under a global random state of its own, seeded by `seed`; the caller sees its own state.

    Dropout and weight initialisation draw from torch's global state. `state` includes the random state in training checkpoints.
    """
    own = _RandomState(_seeded(seed))
    if state is not None:
        state.random = own
    return each_step_in(steps, own.switched_in)


@dataclass(slots=True, eq=False)
class _RandomState:
    """The random state of a run. It is saved between two steps, and restored during one, when it is the process's."""

    between_steps: "_State"

    @contextmanager
    def switched_in(self) -> Iterator[None]:
        outer = _state()
        _restore(self.between_steps)
        try:
            yield
        finally:
            self.between_steps = _state()
            _restore(outer)

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": self.between_steps[0], "cuda": self.between_steps[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _restore((state_dict["cpu"], state_dict["cuda"]))


_State = tuple[torch.Tensor, list[torch.Tensor]]


def _state() -> _State:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore(state: _State) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _seeded(seed: int) -> _State:
    outer = _state()
    torch.manual_seed(seed)
    inner = _state()
    _restore(outer)
    return inner
