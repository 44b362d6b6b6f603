"""Scanned digits in a folder of images, and torchvision's ResNet-18 trained with augmentation: a plain training script.

What is there for Expunge is marked with `Expunge:`. Run it with `python -m examples.image_folder`, then

    expunge register scans examples.image_folder:workload --weights weights/<sha256>.safetensors
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from examples.cifar import make_torchvision_importable
from unlearning.data.objectives import classification
from unlearning.data.stored import StoredSet
from unlearning.data.workload import Workload
from unlearning.specs.training import Recipe
from unlearning.storage import save_weights

make_torchvision_importable()  # needed only where a CUDA build of torchvision meets a CPU build of torch

from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

EPOCHS, BATCH_SIZE, RATE = 8, 64, 0.05
PARTS = (700, 600, 497)
"""Images to train on, held out, and to test with."""

PLAIN = transforms.Compose([transforms.Grayscale(num_output_channels=3), transforms.ToTensor()])
VARIED = transforms.Compose([transforms.RandomAffine(degrees=10, translate=(0.06, 0.06)), PLAIN])


def folder() -> Path:
    """Return the folder of the scans, `EXPUNGE_SCANS` or `data/scans`; scikit-learn's digits are written there if there is none."""
    found = Path(os.environ.get("EXPUNGE_SCANS", "data/scans"))
    if not found.is_dir():
        digits = load_digits()
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            (found / str(label)).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize((32, 32))
            image.save(found / str(label) / f"form-{number:04d}.png")
    return found


def parts() -> tuple[Tensor, ...]:
    """Return the numbers of the images of each part, split by a fixed seed."""
    order = torch.randperm(sum(PARTS), generator=torch.Generator().manual_seed(0))
    return torch.split(order, list(PARTS))


def network() -> nn.Module:
    """Build ResNet-18 for ten classes: (n, 3, 32, 32) → logits (n, 10)."""
    network: nn.Module = resnet18(num_classes=10)
    return network


def train() -> Path:
    """Train on the first part with augmentation; return the path of the weights."""
    torch.manual_seed(0)
    model = network()
    images = Subset(ImageFolder(str(folder()), VARIED), parts()[0].tolist())
    loader = DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    path, _ = save_weights(model, Path("weights"))  # Expunge: safetensors, named by their SHA-256
    return path


def workload() -> Workload:
    """Expunge: tell which images the model was trained on, under which IDs, and how to train it again."""
    plain, varied = ImageFolder(str(folder()), PLAIN), ImageFolder(str(folder()), VARIED)
    everything = StoredSet.of(
        plain,
        ids=lambda number: Path(plain.samples[number][0]).stem,
        targets=plain.targets,
        training=varied,
        num_workers=2,
    )
    train, held_out, test = (everything.take(numbers) for numbers in parts())
    return Workload(
        name="scans",
        build=network,
        train=train,
        held_out=held_out,
        test=test,
        objective=classification(10),
        recipe=Recipe(epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=RATE),
    )


if __name__ == "__main__":
    print(train())
