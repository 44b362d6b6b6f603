"""Checkpoints on disk: tensors as safetensors and everything else as JSON, in one file named by its SHA-256. Never a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unlearning.errors import CheckpointUnusable
from unlearning.weights import file_sha256, write_file

_FORMAT = "expunge-checkpoint-1"


def save_checkpoint(content: Mapping[str, Any], folder: Path) -> tuple[Path, str]:
    """Write nested dicts and lists of tensors and JSON values, whole or not at all; gives the file's path and digest.

    Raises OSError (e.g. ENOSPC) with nothing left behind.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_taken_apart(content, tensors))
    return write_file(safetensors.torch.save(tensors, metadata={_FORMAT: tree}), folder)


def load_checkpoint(path: Path, sha256: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, the tensors on the processor.

    Raises CheckpointUnusable where there is no file, where its digest is not `sha256`, or where it is no checkpoint of this format.
    """
    if not path.is_file():
        raise CheckpointUnusable("its file is gone")
    if file_sha256(path) != sha256:
        raise CheckpointUnusable("its file is damaged: the SHA-256 is not the recorded one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tree = json.loads(file.metadata()[_FORMAT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise CheckpointUnusable("its file is of another format") from None
    content: dict[str, Any] = _put_together(tree, tensors)
    return content


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, its tensors moved out under a number. Dicts become pairs: an optimiser's keys are numbers, not strings."""
    match value:
        case Tensor():
            # A copy, because safetensors refuses tensors that share memory, and the next step changes it.
            copy = value.detach().cpu().clone()
            name = str(len(tensors))
            tensors[name] = copy.contiguous()
            return {"tensor": name, "stride": copy.stride()}
        case dict():
            return {"dict": [[key, _taken_apart(entry, tensors)] for key, entry in value.items()]}
        case list() | tuple():
            return [_taken_apart(entry, tensors) for entry in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"A checkpoint holds tensors and JSON's values, not a {type(value).__name__}.")


def _put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    match tree:
        case {"tensor": name, "stride": stride}:
            found = tensors[name]
            # In the memory format it had: another may be summed in another order, and end in other bits.
            return torch.empty_strided(found.shape, stride, dtype=found.dtype).copy_(found)
        case {"dict": pairs}:
            return {key: _put_together(entry, tensors) for key, entry in pairs}
        case list():
            return [_put_together(entry, tensors) for entry in tree]
    return tree
