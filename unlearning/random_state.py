"""Seeded steps that leave the process's random state as it was."""

from dataclasses import dataclass
from typing import Any

import torch

from unlearning.state import State
from unlearning.task import Outcome, Steps


def isolated(steps: Steps, *, seed: int, state: State | None = None) -> Steps:
    """Run a generator under its own global random state, switched in for each step and out again at each yield.

    Dropout and weight initialisation draw from the global state; a caller between two steps must see its own. `state` keeps it for
    a checkpoint.
    """
    own = _Own(_seeded(seed))
    if state is not None:
        state.random = own
    try:
        while True:
            outer = _state()
            _restore(own.between_steps)
            try:
                progress = next(steps)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            finally:
                own.between_steps = _state()
                _restore(outer)
            yield progress
    finally:
        steps.close()


@dataclass(slots=True, eq=False)
class _Own:
    """The generator's own random state. It is read between two steps, and put back within one, where it is the process's."""

    between_steps: "_State"

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
