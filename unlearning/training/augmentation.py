"""Vary the images of a training batch on the device where they lie."""

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.specs.training import Augmentation


@torch.no_grad()
def augmented(images: Tensor, spec: Augmentation, generator: torch.Generator) -> Tensor:
    """Return a batch of images (n, c, h, w), each cropped and mirrored by chance, in the memory format of the given ones.

    generator: on the images' device.
    """
    n, _, height, width = images.shape
    device, layout = images.device, torch.contiguous_format
    if not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    if spec.padding:
        padded = functional.pad(images, (spec.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = torch.randint(2 * spec.padding + 1, (2, n), generator=generator, device=device)
        images = windows[torch.arange(n, device=device), :, top, left]
    if spec.mirror:
        mirrored = torch.rand(n, generator=generator, device=device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images.contiguous(memory_format=layout)
