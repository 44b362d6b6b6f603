"""Files of weights and training checkpoints: safetensors, named by their SHA-256, written whole or not at all."""

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

_FORMAT = "expunge-checkpoint-1"
_WRAPPERS = ("._orig_mod.", ".module.")
"""What `torch.compile` and data-parallel wrappers put into the names of weights."""


def save_weights(model: nn.Module, folder: Path) -> tuple[Path, str]:
    """Write a model's weights and buffers to `<sha256>.safetensors` in `folder`; return the path and the digest.

    Raises OSError (e.g. ENOSPC) and then leaves no file.
    """
    return write_file(to_bytes(model), folder)


def to_bytes(model: nn.Module) -> bytes:
    """Serialise all weights and buffers as a safetensors file; equal weights give equal bytes."""
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    return safetensors.torch.save(
        {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    )


def write_file(content: bytes, folder: Path) -> tuple[Path, str]:
    """Write `<sha256>.safetensors` into `folder`; return the path and the digest. See `write_atomically`."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}.safetensors"
    write_atomically(path, content)
    return path, digest


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whose folder exists, so that a crash leaves the old file or the whole new one.

    The file appears by a rename after its content has reached the disk. Raises OSError (e.g. ENOSPC) and then leaves no new file.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def load_weights(model: nn.Module, path: Path, sha256: str) -> None:
    """Load the weights at `path` into `model`, in place.

    Tensors that the model shares (tied weights) may stand once in the file, as `safetensors.torch.save_model` and Hugging Face
    write them. Prefixes that `torch.compile` and data-parallel wrappers put before names are taken off where the model has none.
    Raises WeightsMissing if the file does not exist, WeightsDamaged if its digest is not `sha256` or its tensors do not fit.
    """
    if not path.is_file():
        raise WeightsMissing(f"There is no weights file {path.name} in {path.parent}; restore it from the backup.")
    found = file_sha256(path)
    if found != sha256:
        raise WeightsDamaged(
            f"{path.name} has SHA-256 {found}; the ledger recorded {sha256}. Restore it from the backup."
        )
    try:
        model.load_state_dict(_fitted(safetensors.torch.load_file(path), model))
    except safetensors.SafetensorError as error:
        raise WeightsDamaged(
            f"{path.name} does not fit: it is no whole safetensors file ({error}). Load weights of another format into the network "
            "yourself, and write them with `save_weights`."
        ) from error
    except RuntimeError as error:
        raise WeightsDamaged(f"{path.name} does not fit the workload's architecture: {error}") from error


def _fitted(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a file's tensors under the names that the model has, with tied tensors that stand once in it under all of theirs."""
    own = model.state_dict(keep_vars=True)
    for prefix in _WRAPPERS:
        if not any(prefix in f".{name}" for name in own):
            tensors = {f".{name}".replace(prefix, ".")[1:]: tensor for name, tensor in tensors.items()}
    names: dict[object, list[str]] = {}
    for name, tensor in own.items():
        if isinstance(tensor, Tensor):
            names.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)
    for tied in names.values():
        found = next((tensors[name] for name in tied if name in tensors), None)
        if len(tied) > 1 and found is not None:
            tensors = dict.fromkeys(tied, found) | tensors
    return tensors


def read_file(path: Path, sha256: str) -> bytes:
    """Read a file that is named by its digest. Raises WeightsMissing if there is none, WeightsDamaged if its digest differs."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise WeightsMissing(f"There is no file {path.name} in {path.parent}; restore it from the backup.") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsDamaged(
            f"{path.name} has SHA-256 {found}; the ledger recorded {sha256}. Restore it from the backup."
        )
    return content


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_training_checkpoint(content: Mapping[str, Any], folder: Path) -> tuple[Path, str]:
    """Write nested dicts and lists of tensors and JSON values to a file in `folder`; return its path and digest.

    Raises OSError (e.g. ENOSPC) and then leaves no file.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_to_tree(content, tensors))
    return write_file(safetensors.torch.save(tensors, metadata={_FORMAT: tree}), folder)


def load_training_checkpoint(path: Path, sha256: str) -> dict[str, Any]:
    """Read what `save_training_checkpoint` wrote, with the tensors on the CPU.

    Raises CheckpointUnusable if the file does not exist, if its digest is not `sha256`, or if its format is another.
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
    content: dict[str, Any] = _from_tree(tree, tensors)
    return content


def _to_tree(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value as JSON, with each tensor moved to `tensors` under a number.

    Dicts become lists of pairs, because an optimiser's keys are numbers, not strings.
    """
    match value:
        case Tensor():
            # A copy, because safetensors refuses tensors that share memory, and the next step changes it.
            copy = value.detach().cpu().clone()
            name = str(len(tensors))
            tensors[name] = copy.contiguous()
            return {"tensor": name, "stride": copy.stride()}
        case dict():
            return {"dict": [[key, _to_tree(entry, tensors)] for key, entry in value.items()]}
        case list() | tuple():
            return [_to_tree(entry, tensors) for entry in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"A training checkpoint holds tensors and JSON values, not a {type(value).__name__}.")


def _from_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    match tree:
        case {"tensor": name, "stride": stride}:
            found = tensors[name]
            # In its former memory format: another may be summed in another order, with other rounding.
            return torch.empty_strided(found.shape, stride, dtype=found.dtype).copy_(found)
        case {"dict": pairs}:
            return {key: _from_tree(entry, tensors) for key, entry in pairs}
        case list():
            return [_from_tree(entry, tensors) for entry in tree]
    return tree


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
