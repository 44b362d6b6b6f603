"""Find a model's outputs in what its forward pass returns, and check their shape."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unlearning.errors import UnsupportedWorkload


def logits_of(output: Any) -> Tensor:
    """Find the logits, or the predicted values, in what a model returns.

    A tensor is the logits. Otherwise they are the entry or attribute named `logits`, as in Hugging Face's ModelOutput; without one,
    the first tensor of a tuple, a list or a mapping. Raises UnsupportedWorkload where there is none.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    entries = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    found = next((entry for entry in entries if isinstance(entry, Tensor)), None)
    if found is None:
        raise UnsupportedWorkload(
            f"The model returns a {type(output).__name__} without logits. Return a tensor (n, classes), a tuple that begins with "
            "it, or an object or dict with `logits`."
        )
    return found


def class_logits(output: Any, classes: int) -> Tensor:
    """Find the logits of `classes` exclusive classes, (n, classes); one output z of two classes becomes the logits 0 and z.

    bf16 and float16 become float32. Raises UnsupportedWorkload for another shape.
    """
    found = logits_of(output)
    if classes == 2 and found.shape[1:] in ((), (1,)):
        one = found.reshape(len(found))
        found = torch.stack([torch.zeros_like(one), one], -1)
    if found.dim() != 2 or found.shape[1] != classes:
        raise UnsupportedWorkload(
            f"The model returns logits of shape {_shape(found)}; classification({classes}) needs (n, {classes}). One prediction a "
            "sample is supported; several, as of a segmentation, are not. A language model takes causal_language_model(vocabulary)."
        )
    return at_least_float32(found)


def columns(output: Any, count: int, *, of: str) -> Tensor:
    """Find one number for each of `count` labels or values, (n, count); (n,) will do for one. of: the objective, for the message.

    bf16 and float16 become float32. Raises UnsupportedWorkload for another shape.
    """
    found = logits_of(output)
    if count == 1 and found.dim() == 1:
        found = found[:, None]
    if found.dim() != 2 or found.shape[1] != count:
        raise UnsupportedWorkload(f"The model returns a tensor of shape {_shape(found)}; {of} needs (n, {count}).")
    return at_least_float32(found)


def _shape(found: Tensor) -> str:
    return f"({', '.join(map(str, ('n', *found.shape[1:])))})"


def at_least_float32(found: Tensor) -> Tensor:
    """Return a tensor in float32 if it is in float16 or bf16."""
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
