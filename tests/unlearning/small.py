"""Small problems whose truth is known: noise with random labels, which a network can only be right about by remembering it."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from unlearning.data.objectives import classification
from unlearning.data.references import uninformed_references
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.specs.training import Recipe
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.loop import fit
from unlearning.training.slices import SliceCheckpoint

CLASSES = 4
WIDTH = 12
OBJECTIVE = classification(CLASSES)
RECIPE = Recipe(epochs=30, batch_size=16, learning_rate=0.1, precision="float32")


def samples(count: int, *, seed: int, name: str = "sample") -> SampleSet:
    """A weak signal in much noise: held-out accuracy stays low, training accuracy does not."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    inputs = torch.randn(count, WIDTH, generator=generator)
    inputs[torch.arange(count), targets] += 1.0
    return SampleSet(ids=tuple(f"{name}-{seed}-{i}" for i in range(count)), inputs=inputs, targets=targets)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, CLASSES))


def normalised() -> nn.Module:
    """Batch norm stands first too: its statistics there are those of the inputs, whatever the weights are."""
    return nn.Sequential(
        nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, CLASSES)
    )


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, CLASSES))


def convolutional() -> nn.Module:
    """No linear layer at all."""
    return nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, CLASSES, WIDTH), nn.Flatten())


def task(build: Callable[[], nn.Module] = normalised, *, forgotten: int = 24, seed: int = 3) -> Task:
    """A model that remembers its 120 training samples, `forgotten` of which it is to forget."""
    train = samples(120, seed=1)
    index = torch.arange(len(train))
    model = copy.deepcopy(_trained(build))
    return task_of(model, build, forget=train.take(index[:forgotten]), remain=train.take(index[forgotten:]), seed=seed)


def task_of(
    model: nn.Module, build: Callable[[], nn.Module], *, forget: SampleSet, remain: SampleSet, seed: int = 0
) -> Task:
    """A task of this objective and recipe, with two held-out sets."""
    return Task(
        model=model,
        build=build,
        objective=OBJECTIVE,
        recipe=RECIPE,
        forget=forget,
        remain=remain,
        guide=samples(60, seed=11),
        criterion=samples(80, seed=12),
        seed=seed,
    )


@functools.cache
def _trained(build: Callable[[], nn.Module]) -> nn.Module:
    return fit(build, samples(120, seed=1), RECIPE, objective=OBJECTIVE, seed=0)


POOL = samples(3000, seed=99)
"""Never trained on."""


def pooled(start: int, stop: int) -> SampleSet:
    return POOL.take(torch.arange(start, stop))


def comparing(forget: SampleSet, criterion: SampleSet) -> Task:
    """The task of a plain model whose forget set and criterion's held-out set are these."""
    given = task(plain)
    given.forget, given.criterion = forget, criterion
    return given


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def with_references(given: Task) -> Task:
    """Give the task, unless it has some, reference predictions that know nothing but how often each target occurs."""
    if given.references is not None:
        return given
    given.references = uninformed_references(given.objective, given.forget)
    return given


def in_slices(given: Task) -> Task:
    """Have the task's samples learned in three slices, the forget set in the last; the model is as it was after the first."""
    if given.checkpoint is None:
        numbers = [3 * place // len(given.remain) for place in range(len(given.remain))]
        given.remain, given.forget = sliced(given.remain, numbers), sliced(given.forget, [2] * len(given.forget))
        given.recipe = replace(given.recipe, epochs=min(5, given.recipe.epochs))  # type: ignore[type-var]  # a Recipe
        given.checkpoint = SliceCheckpoint(number=0, load=lambda model: None)
    return given


def sliced(part: SampleSet, numbers: Sequence[int]) -> SampleSet:
    return part._like(slices=tuple(numbers)) if isinstance(part, StoredSet) else replace(part, slices=tuple(numbers))


PREPARED: Mapping[str, Callable[[Task], Task]] = {"matching": with_references, "rewind": in_slices}
"""What methods need that the others do without."""


def start(spec: Spec, given: Task) -> Steps:
    """Start a method, after giving the task what it needs."""
    return unlearn(spec, PREPARED[spec.kind](given) if spec.kind in PREPARED else given)
