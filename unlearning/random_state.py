"""Draw from a random state of one's own, so that the process's random state does not change.

The random state is torch's, NumPy's and Python's: weights, dropout and augmentation draw from any of them.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unlearning.state import State
from unlearning.steps import Steps, each_step_in


def isolated(steps: Steps, *, seed: int, state: State | None = None) -> Steps:
    """Run each step of a generator under a global random state of its own, seeded by `seed`; the caller sees its own state.

    `state` includes the random state in training checkpoints.
    """
    with seeded(seed):
        own = _RandomState(_state())
    if state is not None:
        state.random = own
    return each_step_in(steps, own.switched_in)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a random state of its own, seeded by `seed`, within the context."""
    outer = _state()
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():  # without, `torch.manual_seed` would note each call and where it came from
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        _restore(outer)


def random_values() -> dict[str, Any]:
    """Return the process's random state as a training checkpoint holds it."""
    return _to_values(_state())


def restore_random(values: dict[str, Any]) -> None:
    """Restore the process's random state from `random_values`. What an older checkpoint lacks stays as it is."""
    _restore(_from_values(values))


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
        return _to_values(self.between_steps)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        restore_random(state_dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """The libraries' own values; `python` and `numpy` are None where a checkpoint has none."""

    cpu: torch.Tensor
    cuda: list[torch.Tensor]
    python: tuple[Any, ...] | None
    numpy: tuple[Any, ...] | None


def _state() -> _State:
    return _State(
        cpu=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        python=random.getstate(),
        numpy=tuple(np.random.get_state()),
    )


def _restore(state: _State) -> None:
    torch.set_rng_state(state.cpu)
    # A checkpoint may come from a machine with more GPUs.
    for number, device_state in zip(range(torch.cuda.device_count()), state.cuda, strict=False):
        torch.cuda.set_rng_state(device_state, number)
    if state.python is not None:
        random.setstate(state.python)
    if state.numpy is not None:
        np.random.set_state(state.numpy)


def _to_values(state: _State) -> dict[str, Any]:
    assert state.python is not None
    assert state.numpy is not None
    version, words, gauss = state.python
    name, keys, *rest = state.numpy
    return {
        "cpu": state.cpu,
        "cuda": state.cuda,
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
    }


def _from_values(values: dict[str, Any]) -> _State:
    python, numpy = values.get("python"), values.get("numpy")
    return _State(
        cpu=values["cpu"],
        cuda=values["cuda"],
        python=None if python is None else (python[0], tuple(python[1].tolist()), python[2]),
        numpy=None if numpy is None else (numpy[0], numpy[1].numpy().astype(np.uint32), *numpy[2:]),
    )
