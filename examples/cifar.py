"""CIFAR-10 workloads: a small residual network on 5,000 images, for two CPU cores, and ResNet-18 on all images, for a GPU.

`EXPUNGE_CIFAR` is the path of the images: a folder, or a tar archive of one, with `train/<class>/*` and `test/<class>/*` (JPEG or
PNG). Without it torchvision downloads CIFAR-10 into `data/`.
"""

import contextlib
import functools
import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import Workload
from unlearning.errors import InvalidWorkload
from unlearning.specs.training import Recipe

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
"""Of the training images, by channel, values from 0 to 1."""
_IMAGES_PER_CLASS = 800
"""Images of each class and part that 5,000 training images are drawn from."""


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, basic block).

    (n, inside, h, w) → (n, outside, h / stride, w / stride).
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = (
            nn.Identity()
            if inside == outside and stride == 1
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the output feature maps."""
        return torch.relu(self.path(inputs) + self.shortcut(inputs))


def network() -> nn.Module:
    """Build a small residual network: (n, 3, 32, 32) → logits (n, 10), 310,000 parameters."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(32, 32, 1),
        Residual(32, 64, 2),
        Residual(64, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types this overload for tensors only
    return network


def resnet18() -> nn.Module:
    """Build torchvision's ResNet-18 with a stem for small images: a 3 x 3 convolution and no pooling.

    (n, 3, 32, 32) → logits (n, 10), 11.2 million parameters.
    """
    make_torchvision_importable()
    from torchvision.models import resnet18 as built

    network: nn.Module = built(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types this overload for tensors only
    return network


def workload(images: int = 5000) -> Workload:
    """Make the small workload: some training and 2,000 held-out images of CIFAR's training set, 2,000 of its test set."""
    train, held_out = partition(_samples("train", _IMAGES_PER_CLASS * images // 5000), (images, 2000), seed=0)
    (test,) = partition(_samples("test", _IMAGES_PER_CLASS), (2000,), seed=0)
    return Workload(
        name="cifar",
        build=network,
        train=train,
        held_out=held_out,
        test=test,
        objective=classification(10),
        recipe=Recipe(epochs=24, batch_size=64, learning_rate=0.1),
    )


def resnet18_workload() -> Workload:
    """Make the ResNet-18 workload: a tenth of CIFAR's training set held out, the rest to train on; its whole test set; one seed.

    It trains 30 epochs at a one-cycle rate without augmentation, where unlearning papers train 182 epochs.
    """
    everything = _samples("train", None)
    held_out = len(everything) // 10
    train, held_out_samples = partition(everything, (len(everything) - held_out, held_out), seed=0)
    return Workload(
        name="cifar_resnet18",
        build=resnet18,
        train=train,
        held_out=held_out_samples,
        test=_samples("test", None),
        objective=classification(10),
        recipe=Recipe(epochs=30, batch_size=128, learning_rate=0.1),
    )


@functools.cache
def _samples(part: str, per_class: int | None) -> SampleSet:
    """Read one part, "train" or "test"; of stored images at most `per_class` images of each class."""
    where = os.environ.get("EXPUNGE_CIFAR")
    names, pixels, labels = _stored(Path(where), part, per_class) if where else _downloaded(part)
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return SampleSet(
        ids=names,
        inputs=((scaled - mean) / deviation).contiguous(memory_format=torch.channels_last),
        targets=torch.tensor(labels, dtype=torch.int64),
    )


_Images = tuple[tuple[str, ...], NDArray[np.uint8], list[int]]


def _stored(path: Path, part: str, per_class: int | None) -> _Images:
    """Read the images of one part in the order of their names; only those numbered below `per_class`, if given."""
    if not path.exists():
        raise InvalidWorkload(f"EXPUNGE_CIFAR is {path}, which does not exist.")
    files = _in_archive(path, part) if path.is_file() else _in_folder(path, part)
    found = sorted((name, content) for name, content in files if per_class is None or int(Path(name).stem) < per_class)
    if not found:
        raise InvalidWorkload(f"{path} has no images under {part}/<class>/.")
    names = tuple(name for name, _ in found)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        pixels = np.stack(list(pool.map(_decoded, (content for _, content in found))))
    return names, pixels, [CLASSES.index(Path(name).parent.name) for name in names]


def _decoded(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _in_archive(path: Path, part: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.startswith(f"{part}/") else None
            if file is not None:
                yield member.name, file.read()


def _in_folder(path: Path, part: str) -> Iterator[tuple[str, bytes]]:
    for file in (path / part).glob("*/*"):
        yield file.relative_to(path).as_posix(), file.read_bytes()


def _downloaded(part: str) -> _Images:
    make_torchvision_importable()
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10("data", train=part == "train", download=True)
    except URLError as error:
        raise InvalidWorkload(
            f"CIFAR-10 is not in data/ and could not be downloaded ({error.reason}). Set EXPUNGE_CIFAR to a folder of its "
            "images, or to a tar archive of one."
        ) from error
    return tuple(f"{part}/{i:05d}" for i in range(len(data.targets))), data.data, list(data.targets)


def make_torchvision_importable() -> None:
    """Import torchvision. A CUDA build of it needs two operators that a CPU-only torch lacks: declare them if it does not import.

    Where its own operators load they must not be declared before: the second declaration would end the process.
    """
    try:
        import torchvision
    except RuntimeError:
        for signature in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            with contextlib.suppress(RuntimeError):  # It is declared already.
                torch.library.define(f"torchvision::{signature.partition('(')[0]}", "(" + signature.partition("(")[2])
        import torchvision  # noqa: F401  (what follows imports its parts)
