"""Weights on disk: safetensors, named by their SHA-256, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from unlearning.errors import CheckpointUnusable, WeightsDamaged, WeightsMissing

_BLOCK = 1 << 20


def save_weights(model: nn.Module, folder: Path) -> tuple[Path, str]:
    """Write `<sha256>.safetensors` into `folder` and give its path and digest.

    The file appears by a rename after it has reached the disk, so a crash leaves the old state or the new one. Raises OSError
    (e.g. ENOSPC) with nothing left behind.
    """
    return write_file(to_bytes(model), folder)


def to_bytes(model: nn.Module) -> bytes:
    """All weights and buffers in the form of a safetensors file: equal weights give equal bytes."""
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    return safetensors.torch.save(
        {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    )


def write_file(content: bytes, folder: Path) -> tuple[Path, str]:
    """Write `<sha256>.safetensors` into `folder`, by a rename after it has reached the disk; gives its path and digest."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}.safetensors"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".safetensors")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return path, digest


def load_weights(model: nn.Module, path: Path, sha256: str) -> None:
    """Load the weights at `path` into `model`, in place.

    Raises WeightsMissing where there is no file, WeightsDamaged where its digest is not `sha256` or its tensors do not fit.
    """
    if not path.is_file():
        raise WeightsMissing(f"There is no weights file {path.name} in {path.parent}; restore it from the backup.")
    found = file_sha256(path)
    if found != sha256:
        raise WeightsDamaged(
            f"{path.name} has SHA-256 {found}; the ledger recorded {sha256}. Restore it from the backup."
        )
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsDamaged(f"{path.name} does not fit the workload's architecture: {error}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
