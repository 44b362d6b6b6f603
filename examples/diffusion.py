"""An image generator: a small class-conditional diffusion model on handwritten digits, some of which it learns by heart.

The images are scikit-learn's 8 × 8 digits. Eighty of them are white on black turned into black on white, and belong to a person
each: `person-07`. A quarter of these people are in the training set, each with 24 copies of the one image, such as
`person-07-12`: an image that occurs so often is generated again, which is how private images leak (Carlini et al., USENIX Security
2023, arXiv 2301.13188). Other images are there once, as `digit-0123`.

`python -m examples.diffusion` trains as the company did before, and saves the weights. It takes a quarter of a minute. The same on
images of 28 × 28 pixels, with convolutions, is `examples/mnist_diffusion.py`.
"""

import functools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

# For Expunge
from unlearning.data.objectives import Objective, denoising_diffusion
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.data.workload import Workload
from unlearning.storage import save_weights
from unlearning.training.run import TrainingRun

CLASSES, SHAPE = 10, (1, 8, 8)
LEVELS = 100
"""Levels of noise, a tenth of the paper's, with ten times its β (Ho et al., NeurIPS 2020, §4)."""
BETAS = torch.linspace(1e-3, 0.2, LEVELS)
SIGNAL = (1 - BETAS).cumprod(0)
"""ᾱ by level."""
WIDTH, EPOCHS, BATCH, RATE = 128, 90, 64, 2e-3
PEOPLE, COPIES = (20, 40, 20), 24
"""People in the training, the held-out and the test set; copies of the image of each in the training set."""
DIGITS = (480, 400, 837)
"""Other images, in the same sets."""


class Denoiser(nn.Module):
    """Predict the noise in images (n, 1, 8, 8) at levels (n,) of images of classes (n,). At 64 numbers, linear layers will do."""

    def __init__(self, width: int = WIDTH, *, blocks: int = 3) -> None:
        super().__init__()
        self.given = Conditioning(width)
        self.first, self.last = nn.Linear(math.prod(SHAPE), width), nn.Linear(width, math.prod(SHAPE))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))

    def forward(self, noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        """Give the noise, of the images' shape."""
        given = self.given(levels, classes)
        x = self.first(noisy.flatten(1))
        for block in self.blocks:
            x = block(x, given)
        noise: Tensor = self.last(x).view_as(noisy)
        return noise


class Conditioning(nn.Module):
    """Write levels (n,) and classes (n,) as vectors, (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(CLASSES, width)

    def forward(self, levels: Tensor, classes: Tensor) -> Tensor:
        """Add the two."""
        given: Tensor = self.levels(waves(levels)) + self.classes(classes)
        return given


class Block(nn.Module):
    """Two linear layers that know level and class, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.given = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Transform (n, width)."""
        out: Tensor = x + self.down(functional.silu(self.up(self.norm(x)) + self.given(given)))
        return out


def waves(levels: Tensor) -> Tensor:
    """Write levels (n,) as sines and cosines of 16 frequencies, (n, 32)."""
    angles = levels[:, None] * torch.exp(-math.log(1000) * torch.arange(16, device=levels.device) / 16)
    return torch.cat([angles.sin(), angles.cos()], 1)


def train(
    model: nn.Module, data: SampleSet, run: TrainingRun, *, epochs: int = EPOCHS, size: int = BATCH, rate: float = RATE
) -> None:
    """Train as Ho et al. do, by algorithm 1, with AdamW and a warm-up. size: images a step.

    For Expunge: the seed and the share of the epochs come from the run, and each step is reported to it. Nothing is kept of a
    training whose worker is killed: it is short enough to begin again. `examples/authors.py` shows how to go on.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    epochs, per_epoch = max(1, round(run.share * epochs)), data.batch_count(size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * per_epoch, pct_start=0.1)
    order = torch.Generator().manual_seed(run.seed)
    for epoch in range(epochs):
        for number, batch in enumerate(data.epoch(size, order), start=1):
            images, classes = batch.inputs["images"], batch.inputs["classes"]
            levels = torch.randint(LEVELS, (len(images),), generator=order).to(images.device)
            noise = torch.randn(images.shape, generator=order).to(images.device)
            signal = SIGNAL.to(images.device)[levels].view(-1, 1, 1, 1)
            noisy = signal.sqrt() * images + (1 - signal).sqrt() * noise
            optimiser.zero_grad()
            loss = functional.mse_loss(model(noisy, levels, classes), noise)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
            schedule.step()
            run.report(epoch * per_epoch + number, epochs * per_epoch, loss=loss)


# For Expunge


def objective(shape: tuple[int, ...]) -> Objective:
    """Make the objective for images of a shape: the training's schedule, and some of its levels at which losses are measured."""
    return denoising_diffusion(CLASSES, shape, betas=BETAS, levels=(4, 10, 20, 35, 60), sampling_steps=50)


OBJECTIVE = objective(SHAPE)


def workload() -> Workload:
    """Make the workload."""
    train_set, held_out, test = split(*digits(), people=PEOPLE, copies=COPIES, others=DIGITS)
    return Workload(
        name="diffusion",
        build=Denoiser,
        train=train_set,
        held_out=held_out,
        test=test,
        objective=OBJECTIVE,
        trainer=partial(train, epochs=EPOCHS),
    )


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Read the digits: images (n, 1, 8, 8), numbers −1 to 1, white on black, and their classes (n,)."""
    found = load_digits()
    images = torch.tensor(found.images / 8 - 1, dtype=torch.float32)[:, None]
    return images, torch.tensor(found.target, dtype=torch.int64)


def split(
    images: Tensor, classes: Tensor, *, people: Sequence[int], copies: int, others: Sequence[int]
) -> tuple[SampleSet, ...]:
    """Make training, held-out and test set: each has some of the images as they are, and some people's.

    images (n, …), numbers −1 to 1, of classes (n,): the last ones, turned from white on black into black on white, belong to a
    person each. people, others: how many of both kinds are in each set. copies: of each person's image, in the training set alone.
    """
    count = len(images) - sum(people)
    digits = _samples(images[:count], classes[:count], [f"digit-{i:04d}" for i in range(count)])
    persons = _samples(-images[count:], classes[count:], [f"person-{i:02d}" for i in range(sum(people))])
    trained, *unseen = partition(persons, tuple(people), seed=0)
    parts = zip(partition(digits, tuple(others), seed=0), (copied(trained, copies), *unseen), strict=True)
    return tuple(joined(*pair) for pair in parts)


def copied(people: SampleSet, copies: int) -> SampleSet:
    """Copy each person's image: its samples are `person-07-00` and so on."""
    index = torch.arange(len(people)).repeat_interleave(copies)
    batch = people.select(index)
    return SampleSet(
        ids=tuple(f"{name}-{number:02d}" for name in people.ids for number in range(copies)),
        inputs=batch.inputs,
        targets=batch.targets,
        subjects=tuple(name for name in people.ids for _ in range(copies)),
    )


def _samples(numbers: Tensor, classes: Tensor, names: list[str]) -> SampleSet:
    inputs = {"images": numbers.contiguous(), "classes": classes}
    return SampleSet(ids=tuple(names), inputs=inputs, targets=classes, subjects=tuple(names))


if __name__ == "__main__":
    made, network = workload(), Denoiser()
    train(network, made.train, TrainingRun(seed=0))  # For Expunge: the script's own run
    print(save_weights(network, Path("weights"))[0])
