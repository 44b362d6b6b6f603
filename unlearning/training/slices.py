"""Train a model slice by slice, so that a training can go on from the weights before a slice.

The training set comes in numbered slices, such as the months in which the samples were collected. The model is first trained on
slice 0, then on slices 0 and 1, and so on (Bourtoule et al., "Machine Unlearning", IEEE S&P 2021, without its shards). The weights
after a slice never saw a sample of a later one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearning.data.samples import SampleSet
from unlearning.random_state import isolated
from unlearning.state import State
from unlearning.steps import Outcome, Progress, Steps, map_progress

KeepSlice = Callable[[int, nn.Module], Mapping[str, Any]]
"""Keeps the weights after a slice, given its number, and returns what says where: JSON values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceCheckpoint:
    """Weights that were kept after slice `number`, of a training on the very samples of the slices up to it that still remain.

    load: puts them into a model. Raises WeightsError.
    """

    number: int
    load: Callable[[nn.Module], object]


@dataclass(kw_only=True, slots=True, eq=False)
class _Position:
    """Where a training in slices is, as a training checkpoint of it holds it.

    finished: slices. steps: of these. kept: what `KeepSlice` returned. before: the weights before the present slice, where the
    slice's own state does not hold the model. inner: the present slice's state.
    """

    finished: int = 0
    steps: int = 0
    kept: list[Mapping[str, Any]] = field(default_factory=list)
    before: dict[str, Tensor] = field(default_factory=dict)
    inner: State = field(default_factory=State)

    def state_dict(self) -> dict[str, Any]:
        begun = self.inner.step != 0
        return {
            "finished": self.finished,
            "steps": self.steps,
            "kept": [dict(entry) for entry in self.kept],
            "before": self.before,
            "slice": self.inner.snapshot() if begun else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.finished, self.steps = state_dict["finished"], state_dict["steps"]
        self.kept, self.before = list(state_dict["kept"]), state_dict["before"]
        self.inner = State(state_dict["slice"])


def sliced_steps(
    model: nn.Module,
    samples: SampleSet,
    train_slice: Callable[[SampleSet, int, State], Steps],
    *,
    seed: int,
    state: State,
    after: int | None = None,
    keep: KeepSlice | None = None,
    holds_model: bool = True,
) -> Steps:
    """Train `model` in place on one slice after the other, each with all slices before it.

    train_slice: trains the model on the samples up to a slice, by a seed of its own, with a state of its own. Each draws from a
    random state of its own, so going on after a slice gives the weights, to the bit, of a training from the beginning.
    after: the model has learned the slices up to this one. keep: called after each slice but the last.
    holds_model: whether the state of a slice holds the model; otherwise a copy of its weights is kept while a slice is trained.
    """
    assert samples.slices is not None
    numbers = torch.tensor(samples.slices)
    slices = [number for number in sorted(set(samples.slices)) if after is None or number > after]
    sizes = [int((numbers <= number).sum()) for number in slices]
    position, most = _Position(), 0
    state.register(slices=position)
    if position.before:
        model.load_state_dict(position.before)
    for place in range(position.finished, len(slices)):
        number = slices[place]
        part = samples.take((numbers <= number).nonzero().flatten())
        inner = State(position.inner.resumed, should_stop=state.should_stop)
        if not holds_model:
            position.before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        position.inner = inner
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        steps = isolated(train_slice(part, own_seed, inner), seed=own_seed, state=inner)
        left = sum(sizes[place + 1 :]) / sizes[place]

        def counted(progress: Progress, left: float = left) -> Progress:
            nonlocal most
            most = max(most, position.steps + round(progress.total * (1 + left)))
            state.step = None if position.inner.step is None else position.steps + position.inner.step
            return replace(progress, step=position.steps + progress.step, total=most)

        outcome = yield from map_progress(steps, counted)
        position.finished, position.steps, position.inner = place + 1, position.steps + outcome.steps, State()
        if keep is not None and place + 1 < len(slices):
            position.kept.append(keep(number, model))
    return Outcome(steps=position.steps, stopped_because="completed", kept=tuple(position.kept))


def replayed_share(samples: SampleSet, *, after: int) -> float:
    """Compute which share of a whole training on the samples is still to be done after slice `after`, by the samples read."""
    numbers = torch.tensor(samples.slices)
    work = {number: int((numbers <= number).sum()) for number in set(samples.slices or ())}
    return sum(size for number, size in work.items() if number > after) / sum(work.values())
