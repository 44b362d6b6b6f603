"""Seeded steps that leave the process's random state as it was."""

import torch

from unlearning.task import Outcome, Steps


def isolated(steps: Steps, *, seed: int) -> Steps:
    """Run a generator under its own global random state, switched in for each step and out again at each yield.

    Dropout and weight initialisation draw from the global state; a caller between two steps must see its own.
    """
    inner = _seeded(seed)
    try:
        while True:
            outer = _state()
            _restore(inner)
            try:
                progress = next(steps)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            finally:
                inner = _state()
                _restore(outer)
            yield progress
    finally:
        steps.close()


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
