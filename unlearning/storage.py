"""Weights and training checkpoints as safetensors files, whose digests are checked on every read.

The weights of a PEFT model are those of its adapters alone, as PEFT saves them: its base is what `build` gives.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from unlearning.errors import CheckpointUnusable, WeightsDamaged, WeightsMisfit, WeightsMissing
from unlearning.files import file_sha256, write_file
from unlearning.networks import moving_batch_norm
from unlearning.sharding import is_part, whole

_FORMAT = "expunge-checkpoint-1"
_WRAPPERS = ("._orig_mod.", ".module.")
"""What `torch.compile` and data-parallel wrappers put into the names of weights."""
_QUOTED = 400
"""Letters of torch's own error that are quoted: it names every tensor that does not fit."""


def save_weights(model: nn.Module, folder: Path) -> tuple[Path, str]:
    """Write a model's weights and buffers to `<sha256>.safetensors` in `folder`; return the path and the digest.

    Raises OSError (e.g. ENOSPC) and then leaves no file.
    """
    return write_file(to_bytes(model), folder)


def to_bytes(model: nn.Module) -> bytes:
    """Serialise all weights and buffers, of a PEFT model its adapters, as a safetensors file; equal weights give equal bytes.

    Of a sharded model the first rank alone gets them; all must call this.
    """
    adapters = _adapters(model)
    tensors = model.state_dict() if adapters is None else adapters
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in whole(tensors).items()})


def _adapters(model: nn.Module) -> dict[str, Tensor] | None:
    """Return what PEFT saves of a model, by the names in its files: its adapter, and modules that it trains as a whole.

    Of several adapters, which PEFT saves to several files, the tensors have the names that they have in the model. None for a model
    of another kind, for a sharded one, and for one of which training moves something else too.
    """
    peft: Any = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel) or any(map(is_part, model.parameters())):
        return None
    state = model.state_dict()
    found: dict[str, Tensor] = (
        peft.get_peft_model_state_dict(model, save_embedding_layers=False)
        if len(model.peft_config) == 1
        else {
            name: tensor for name, tensor in state.items() if not model.peft_config.keys().isdisjoint(name.split("."))
        }
    )
    saved = {tensor.data_ptr() for tensor in found.values()}
    moved = {tensor.data_ptr() for tensor in model.parameters() if tensor.requires_grad}
    moved |= {buffer.data_ptr() for layer in moving_batch_norm(model) for buffer in layer.buffers()}
    return found if moved <= saved else None


def load_weights(model: nn.Module, path: Path, sha256: str) -> None:
    """Load the weights at `path` into `model`, in place.

    Of a PEFT model the file may have the adapters alone, as PEFT writes them. Tensors that the model shares (tied weights) may
    stand once in the file, as `safetensors.torch.save_model` and Hugging Face write them. Prefixes that `torch.compile` and
    data-parallel wrappers put before names are taken off where the model has none.

    Raises WeightsMissing if the file does not exist, WeightsDamaged if its digest is not `sha256` or it is no whole file of
    weights, and WeightsMisfit if its tensors do not fit.
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
        raise WeightsMisfit(
            f"{path.name} does not fit the workload's architecture: {shorten(str(error), _QUOTED)} If the file is right, "
            "`build` returns another network here than where the file was written."
        ) from error


def _fitted(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a file's tensors under the names that the model has, with tied tensors that stand once in it under all of theirs.

    A file of adapters is completed by what the model has beside them.
    """
    own = model.state_dict(keep_vars=True)
    adapters = _adapters(model)
    if adapters is not None and tensors.keys() == adapters.keys():
        places = {tensor.data_ptr(): name for name, tensor in adapters.items()}
        return {
            name: tensors[places[tensor.data_ptr()]] if tensor.data_ptr() in places else tensor.detach()
            for name, tensor in own.items()
        }
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


def save_training_checkpoint(content: Mapping[str, Any], folder: Path) -> tuple[Path, str]:
    """Write what `checkpoint_to_bytes` takes to a file in `folder`; return its path and digest.

    Raises OSError (e.g. ENOSPC) and then leaves no file.
    """
    return write_file(checkpoint_to_bytes(content), folder)


def checkpoint_to_bytes(content: Mapping[str, Any]) -> bytes:
    """Serialise nested dicts and lists of tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_to_tree(content, tensors))
    return safetensors.torch.save(tensors, metadata={_FORMAT: tree})


def load_training_checkpoint(path: Path, sha256: str) -> dict[str, Any]:
    """Read a file with what `checkpoint_to_bytes` made, with the tensors on the CPU.

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
