"""Small networks, and requests of every kind for them, on which no default was chosen: the cells of `benchmarks.transfer`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.specs.training import Recipe

NOISE, TABLE_NOISE = 0.35, 1.5
"""Standard deviations of the noise: of pixels from 0 to 1, and of columns with the deviation 1."""
FORGOTTEN = 60
"""Samples of a request, where its kind does not say another number."""


class Attention(nn.Module):
    """An image's rows as tokens: layer norm, attention and a perceptron, (n, 1, 8, 8) → (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.before, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.output = nn.Linear(8 * 32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        tokens = self.embed(images.flatten(1, 2)) + self.place
        normed = self.before(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.perceptron(self.after(tokens))
        logits: Tensor = self.output(tokens.flatten(1))
        return logits


class Residual(nn.Module):
    """Two residual blocks with batch norm, (n, 1, 8, 8) → (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False),
            )
            for _ in range(2)
        )  # fmt: skip
        self.output = nn.Linear(16 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        values = self.stem(images)
        for block in self.blocks:
            values = values + block(values)
        logits: Tensor = self.output(nn.functional.avg_pool2d(values, 2).flatten(1))
        return logits


def perceptron() -> nn.Module:
    """Build a plain perceptron."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def group_norm() -> nn.Module:
    """Build a convolutional network with group norm."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )  # fmt: skip


def tabular() -> nn.Module:
    """Build a network for rows of 30 numbers and two classes."""
    return nn.Sequential(
        nn.Linear(30, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "perceptron": (perceptron, 0.1),
    "group_norm": (group_norm, 0.05),
    "attention": (Attention, 0.05),
    "residual": (Residual, 0.05),
    "tabular": (tabular, 0.05),
}
"""How each is built, and its learning rate."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """A network and a request. forget: the positions of the samples in the training set."""

    workload: Workload
    forget: Tensor

    @property
    def remain(self) -> SampleSet:
        """The training set without the forgotten samples."""
        mask = torch.ones(len(self.workload.train), dtype=torch.bool)
        mask[self.forget] = False
        return self.workload.train.take(mask.nonzero().flatten())


@dataclass(slots=True)
class Data:
    """What a request may change: inputs, targets and subjects of the training set, and which other samples there are."""

    inputs: Tensor
    targets: Tensor
    others: Tensor
    other_targets: Tensor
    rng: np.random.Generator
    subjects: list[str] | None = None

    def some(self, count: int = FORGOTTEN, among: Tensor | None = None) -> Tensor:
        """Draw positions in the training set."""
        pool = np.arange(len(self.targets)) if among is None else among.nonzero().flatten().numpy()
        return torch.from_numpy(np.sort(self.rng.permutation(pool)[:count]))


def wrong_labels(data: Data) -> Tensor:
    """Give some samples wrong labels, and forget them."""
    chosen = data.some()
    classes = int(data.targets.max()) + 1
    shift = torch.from_numpy(data.rng.integers(1, classes, size=len(chosen)))
    data.targets = data.targets.index_copy(0, chosen, (data.targets[chosen] + shift) % classes)
    return chosen


def near_copies(data: Data) -> Tensor:
    """Forget samples of which near-copies stay."""
    chosen = data.some()
    noise = 0.1 * data.inputs.std() * torch.from_numpy(data.rng.standard_normal(data.inputs[chosen].shape)).float()
    data.inputs = torch.cat([data.inputs, data.inputs[chosen] + noise])
    data.targets = torch.cat([data.targets, data.targets[chosen]])
    return chosen


def with_copies(data: Data) -> Tensor:
    """Forget samples and their near-copies."""
    chosen = near_copies(data)
    return torch.cat([chosen, torch.arange(len(data.targets) - len(chosen), len(data.targets))])


def one_person(data: Data) -> Tensor:
    """Forget the samples of one person, which are the only ones with inverted values."""
    chosen = data.some()
    data.inputs = data.inputs.index_copy(0, chosen, data.inputs.max() - data.inputs[chosen])
    data.subjects = [f"person-{number}" for number in range(len(data.targets))]
    for number in chosen.tolist():
        data.subjects[number] = "the-person"
    return chosen


def part_of_a_class(data: Data) -> Tensor:
    """Forget the half of a class that is the nearest to one of its samples."""
    members = (data.targets == 1).nonzero().flatten()
    rows = data.inputs[members].flatten(1)
    distance = (rows - rows[int(data.rng.integers(len(rows)))]).norm(dim=1)
    return members[distance.argsort()[: len(members) // 2]].sort().values


def missing_class(data: Data) -> Tensor:
    """Forget some samples of a class of which no other data has any."""
    kept = data.other_targets != 1
    data.others, data.other_targets = data.others[kept], data.other_targets[kept]
    return data.some(FORGOTTEN // 2, data.targets == 1)


REQUESTS: dict[str, Callable[[Data], Tensor]] = {
    "random": lambda data: data.some(),
    "wrong_labels": wrong_labels,
    "near_copies": near_copies,
    "with_copies": with_copies,
    "one_person": one_person,
    "part_of_a_class": part_of_a_class,
    "missing_class": missing_class,
    "one_sample": lambda data: data.some(1),
    "most": lambda data: data.some(round(0.6 * len(data.targets))),
}
"""What each changes in the data; returns what is forgotten."""


def __getattr__(name: str) -> Callable[[], Workload]:
    """Return the factory of a cell's workload, which a worker finds by its name, such as `perceptron__random__100`."""
    network, *rest = name.split("__")
    if network not in NETWORKS or len(rest) != 2:
        raise AttributeError(name)
    return lambda: cell(network, rest[0], int(rest[1])).workload


@functools.cache
def cell(network: str, request: str, seed: int) -> Cell:
    """Make a cell."""
    build, rate = NETWORKS[network]
    inputs, targets = _noisy_table(TABLE_NOISE) if network == "tabular" else noisy_digits(NOISE)
    rng = np.random.default_rng([seed, 17])
    order = torch.from_numpy(rng.permutation(len(targets)))
    count = len(targets) // 2
    train, other = order[:count], order[count:]
    data = Data(
        inputs=inputs[train], targets=targets[train], others=inputs[other], other_targets=targets[other], rng=rng
    )
    forget = REQUESTS[request](data)
    half = 2 * len(data.other_targets) // 3

    def others(name: str, part: slice) -> SampleSet:
        ids = tuple(f"{name}-{number}" for number in range(len(data.other_targets[part])))
        return SampleSet(ids=ids, inputs=data.others[part], targets=data.other_targets[part])

    workload = Workload(
        name=f"{network}__{request}__{seed}",
        build=build,
        train=SampleSet(
            ids=tuple(f"train-{number}" for number in range(len(data.targets))),
            inputs=data.inputs,
            targets=data.targets,
            subjects=None if data.subjects is None else tuple(data.subjects),
        ),
        held_out=others("held-out", slice(half)),
        test=others("test", slice(half, None)),
        objective=classification(2 if network == "tabular" else 10),
        recipe=Recipe(epochs=40, batch_size=64, learning_rate=rate, precision="float32"),
    )
    return Cell(workload=workload, forget=forget)


@functools.cache
def noisy_digits(noise: float) -> tuple[Tensor, Tensor]:
    """Load scikit-learn's digits, (n, 1, 8, 8) with pixels from 0 to 1, and their classes, (n,) int64; add fixed noise.

    noise: its standard deviation. With enough of it a network must memorise its training images.
    """
    data = load_digits()
    clean = torch.tensor(data.data / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return _noisy(clean, noise), torch.tensor(data.target, dtype=torch.int64)


@functools.cache
def _noisy_table(noise: float) -> tuple[Tensor, Tensor]:
    data = load_breast_cancer()
    clean = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)
    return _noisy(clean, noise), torch.tensor(data.target)


def _noisy(clean: Tensor, noise: float) -> Tensor:
    return clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
