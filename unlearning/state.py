"""What an interrupted run needs to go on: its parts, kept by name, and the loops that know where they were.

A run is resumed by calling its method again, on the original model: what it prepares before its first step is computed again, and
then `keep` puts every part where it was. On a processor the weights at the end are equal bit by bit to those of a run that was
never interrupted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from unlearning.data.samples import Batch, SampleSet


class Stateful(Protocol):
    """What has a state to keep, as modules, optimisers and schedules have: nested dicts and lists of tensors and JSON's values."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102  (torch's own names)

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...  # noqa: D102


Part = Stateful | torch.Generator | dict[str, Tensor]
"""What can be kept; tensors in a dict are put back in place."""


@dataclass(slots=True, eq=False)
class State:
    """The parts of one run whose values are a checkpoint.

    resumed: the values to go on from, as `snapshot` gave them; empty for a run from the beginning.
    random: the run's own random numbers (`random_state.isolated`), put back last, after everything that may draw some.
    """

    resumed: Mapping[str, Any] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    random: Stateful | None = None

    def keep(self, **parts: Part) -> None:
        """From here on these are part of every checkpoint; in a resumed run each takes its value now.

        Call it when all that looks at the original model is done, right before the loop; the model itself is one of the parts. A
        name stands once in a run.
        """
        twice = parts.keys() & self.parts.keys()
        assert not twice, f"kept twice: {twice}"
        self.parts.update(parts)
        found = parts.keys() & self.resumed.keys()
        for name in found:
            _put(parts[name], self.resumed[name])
        if found and self.random is not None:
            self.random.load_state_dict(self.resumed["random"])

    def snapshot(self) -> dict[str, Any]:
        """The values now, between two steps. The tensors are the run's own: write or copy them before the next step."""
        random = {} if self.random is None else {"random": self.random.state_dict()}
        return {name: _value(part) for name, part in self.parts.items()} | random


def _value(part: Part) -> Any:
    match part:
        case torch.Generator():
            return part.get_state()
        case dict():
            return part
    return part.state_dict()


def _put(part: Part, value: Any) -> None:
    match part:
        case torch.Generator():
            part.set_state(value)
        case dict():
            for name, tensor in part.items():
                tensor.copy_(value[name])
        case _:
            part.load_state_dict(value)


@dataclass(slots=True, eq=False)
class Loop:
    """Counts `done` from 1 to `total`; kept, a resumed run goes on with the next number. `end` before a `break`."""

    total: int
    done: int = 0

    def __iter__(self) -> Iterator[int]:
        while self.done < self.total:
            self.done += 1
            yield self.done

    def end(self) -> None:
        """Let no further number follow, in a resumed run neither."""
        self.total = self.done

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {"total": self.total, "done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.total, self.done = state_dict["total"], state_dict["done"]


@dataclass(slots=True, eq=False)
class Epochs:
    """Batches of `size`, every sample once an epoch in a new random order; kept, a resumed run goes on with the next batch.

    taken: batches given so far. order: the present epoch's, (n,) int64.
    """

    samples: SampleSet
    size: int
    epochs: int
    generator: torch.Generator
    taken: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def total(self) -> int:
        """How many batches there are in all."""
        return self.epochs * self.samples.batch_count(self.size)

    @property
    def index(self) -> Tensor:
        """Where the samples of the latest batch stand, (k,) int64."""
        return self.samples.places(self.order, (self.taken - 1) % self.samples.batch_count(self.size), self.size)

    def __iter__(self) -> Iterator[Batch]:
        while self.taken < self.total:
            number = self.taken % self.samples.batch_count(self.size)
            if number == 0:
                self.order = torch.randperm(len(self.samples), generator=self.generator)
            self.taken += 1
            yield self.samples.slice(self.order, number, self.size)

    def state_dict(self) -> dict[str, Any]:
        """Where it is; the generator is a part of its own."""
        return {"taken": self.taken, "order": self.order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.taken, self.order = state_dict["taken"], state_dict["order"]
