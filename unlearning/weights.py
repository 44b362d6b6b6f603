"""Weights on disk: safetensors, named by their SHA-256, written whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from unlearning.errors import WeightsDamaged, WeightsMissing

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
