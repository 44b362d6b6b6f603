"""Classes that are forgotten as a whole: a model retrained on what remains would not know them [ours]."""

import torch
from torch import Tensor

from unlearning.samples import SampleSet

_GONE = 0.1
"""A class of which the remaining set keeps less than this share is forgotten as a whole."""


def gone_classes(forget: SampleSet, remain: SampleSet, *, classes: int | None) -> Tensor | None:
    """(classes,) bool: those of which less than a tenth remains. None where there are no classes."""
    if classes is None:
        return None
    forgotten, kept = (torch.bincount(samples.targets, minlength=classes) for samples in (forget, remain))
    return kept < _GONE * (forgotten + kept)


def of_classes(chosen: Tensor | None, targets: Tensor) -> Tensor:
    """(n,) bool: which samples are of these classes, (classes,) bool; none of them where there are no classes."""
    return torch.zeros(len(targets), dtype=torch.bool, device=targets.device) if chosen is None else chosen[targets]
