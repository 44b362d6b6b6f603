"""The state of a run that a training checkpoint holds: the run's parts by name, and loops that remember their position.

A run is resumed by calling its method again on the original model. What the method prepares before its first step is computed
again; then `State.register` restores every part. On a CPU the final weights are bit for bit those of an uninterrupted run.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from unlearning.data.batches import Batch
from unlearning.data.samples import SampleSet
from unlearning.sharding import take_optimiser_parts


class Stateful(Protocol):
    """Anything with a state, such as modules, optimisers and schedules: nested dicts and lists of tensors and JSON values."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102  (torch's own names)

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...  # noqa: D102


Part = Stateful | torch.Generator | dict[str, Tensor]
"""What a training checkpoint can hold. Tensors in a dict are restored in place."""


@dataclass(slots=True, eq=False)
class State:
    """The parts of one run; their values are its training checkpoint.

    resumed: the values to continue from, as `snapshot` returned them; empty for a run from the beginning.
    random: the run's random state (`random_state.isolated`), restored last, after everything that may draw from it.
    step: the step that `snapshot` is of, 0 if there is nothing to save yet; None if that is always the latest step.
    should_stop: whether the run must end; for steps that take long. The caller ends it between two steps in any case.
    """

    resumed: Mapping[str, Any] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    random: Stateful | None = None
    step: int | None = None
    should_stop: Callable[[], bool] = lambda: False

    def register(self, **parts: Part) -> None:
        """Add parts to every training checkpoint from here on; in a resumed run restore their saved values now.

        Call it right before the loop, after everything that reads the original model: the model is one of the parts. A name may be
        registered once in a run.
        """
        twice = parts.keys() & self.parts.keys()
        assert not twice, f"registered twice: {twice}"
        self.parts.update(parts)
        found = parts.keys() & self.resumed.keys()
        for name in found:
            _restore(parts[name], self.resumed[name])
        if found and self.random is not None:
            self.random.load_state_dict(self.resumed["random"])

    def snapshot(self) -> dict[str, Any]:
        """Return the present values, between two steps. The tensors are not copies: write or copy them before the next step."""
        random = {} if self.random is None else {"random": self.random.state_dict()}
        return {name: _value(part) for name, part in self.parts.items()} | random


def _value(part: Part) -> Any:
    match part:
        case torch.Generator():
            return part.get_state()
        case dict():
            return part
    return part.state_dict()


def _restore(part: Part, value: Any) -> None:
    match part:
        case torch.Generator():
            part.set_state(value)
        case dict():
            for name, tensor in part.items():
                tensor.copy_(value[name])
        case torch.optim.Optimizer():
            part.load_state_dict(take_optimiser_parts(part, value))
        case _:
            part.load_state_dict(value)


@dataclass(slots=True, eq=False)
class Loop:
    """Count `done` from 1 to `total`. Registered, it continues with the next number in a resumed run. `end` it before a `break`."""

    total: int
    done: int = 0

    def __iter__(self) -> Iterator[int]:
        while self.done < self.total:
            self.done += 1
            yield self.done

    def end(self) -> None:
        """End the count here, in a resumed run too."""
        self.total = self.done

    def state_dict(self) -> dict[str, Any]:
        """Return its position."""
        return {"total": self.total, "done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self.total, self.done = state_dict["total"], state_dict["done"]


@dataclass(slots=True, eq=False)
class Epochs:
    """Yield batches of `size`, with every sample once an epoch in a new random order.

    Registered, it continues with the next batch in a resumed run. taken: batches yielded so far. order: of the present epoch's
    samples, (n,) int64.
    """

    samples: SampleSet
    size: int
    epochs: int
    generator: torch.Generator
    taken: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def total(self) -> int:
        """The number of batches in all epochs."""
        return self.epochs * self.samples.batch_count(self.size)

    @property
    def index(self) -> Tensor:
        """The positions of the latest batch's samples in `samples`, (k,) int64."""
        return self.samples.places(self.order, (self.taken - 1) % self.samples.batch_count(self.size), self.size)

    def __iter__(self) -> Iterator[Batch]:
        count = self.samples.batch_count(self.size)
        while self.taken < self.total:
            if self.taken % count == 0:
                self.order = self.samples.order(self.generator)
            left = [self.samples.places(self.order, number, self.size) for number in range(self.taken % count, count)]
            for batch in self.samples.stream(left, training=True):
                self.taken += 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return its position; the generator is registered as a part of its own."""
        return {"taken": self.taken, "order": self.order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self.taken, self.order = state_dict["taken"], state_dict["order"]
