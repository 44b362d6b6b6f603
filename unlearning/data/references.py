"""Reference predictions: what models that never saw a sample say of it (docs/methods.md §8) [ours].

A cheap form of oracle matching (Georgiev et al., "Machine Unlearning via Simulated Oracle Matching", ICLR 2025, arXiv 2410.23232),
obtained by cross-fitting.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.errors import ReferencesUnusable

_FORMAT = "expunge-references-1"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferencePredictions:
    """What a method may see of the references of n samples: no row of the audit's rounds.

    predictions: (n, k), or (n, 0) for an objective without outputs. losses: (n,), nats.
    """

    predictions: Tensor
    losses: Tensor

    def __len__(self) -> int:
        return len(self.losses)


def uninformed_references(objective: Objective, samples: SampleSet) -> ReferencePredictions:
    """Make references that know nothing but how often each target occurs: what a trial run aims at, in place of real ones."""
    predicts = objective.predicts
    if predicts is None:
        return ReferencePredictions(predictions=torch.empty(len(samples), 0), losses=torch.ones(len(samples)))
    predictions = predicts.predictions(predicts.guess(samples.targets)).expand(len(samples), -1)
    losses = predicts.losses(predictions, samples.targets)
    return ReferencePredictions(predictions=predictions.float(), losses=losses.float())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class References:
    """Reference predictions of n samples, of the training and of the held-out set.

    keys: n distinct keys of the samples, 32 bytes each: a keyed hash of the sample's ID, never the ID itself.
    predictions: (n, k), the mean prediction of the models of the method rounds that did not see the sample: probabilities float16,
        values float32; (n, 0) for an objective without outputs. losses: (n,) float32, nats: the loss of the true target under the
        prediction, or the mean reference loss.
    unseen, seen: (n,) float32, the mean signal of the audit rounds' models that did not see the sample, and of those that did
        (`Objective.known`).
    details: how they were prepared: plan, seed, the workload, seconds.
    """

    keys: tuple[bytes, ...]
    predictions: Tensor
    losses: Tensor
    unseen: Tensor
    seen: Tensor
    details: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.keys)

    def __post_init__(self) -> None:
        for field in fields(self)[1:5]:
            tensor: Tensor = getattr(self, field.name)
            if len(tensor) != len(self.keys):
                raise ReferencesUnusable(f"{field.name} has {len(tensor)} rows; there are {len(self.keys)} keys")
            if not bool(torch.isfinite(tensor).all()):
                raise ReferencesUnusable(f"{field.name} has values that are not finite")
        if len(set(self.keys)) != len(self.keys):
            raise ReferencesUnusable("a sample has two rows")

    def take(self, keys: Sequence[bytes]) -> "References":
        """Return the rows of these samples, in their order. Raises ReferencesUnusable if one is missing; it is not named."""
        place = {key: number for number, key in enumerate(self.keys)}
        missing = sum(key not in place for key in keys)
        if missing:
            raise ReferencesUnusable(f"{missing} of {len(keys)} samples have no row")
        return self._rows([place[key] for key in keys], tuple(keys))

    def for_method(self, keys: Sequence[bytes]) -> ReferencePredictions:
        """Return what a method may see of these samples' rows. Raises ReferencesUnusable as `take` does."""
        rows = self.take(keys)
        return ReferencePredictions(predictions=rows.predictions.float(), losses=rows.losses)

    def without(self, keys: set[bytes]) -> "References":
        """Return all rows but these samples'; keys without a row are ignored."""
        kept = [number for number, key in enumerate(self.keys) if key not in keys]
        return self._rows(kept, tuple(self.keys[number] for number in kept))

    def to(self, device: torch.device | str) -> "References":
        """Return the same rows on `device`."""
        return self._map(lambda tensor: tensor.to(device), self.keys)

    def _rows(self, index: list[int], keys: tuple[bytes, ...]) -> "References":
        rows = torch.tensor(index, dtype=torch.int64, device=self.losses.device)
        return self._map(lambda tensor: tensor[rows], keys)

    def _map(self, change: Callable[[Tensor], Tensor], keys: tuple[bytes, ...]) -> "References":
        return References(
            keys=keys,
            predictions=change(self.predictions),
            losses=change(self.losses),
            unseen=change(self.unseen),
            seen=change(self.seen),
            details=self.details,
        )


def to_bytes(references: References) -> bytes:
    """Serialise as a safetensors file; equal references give equal bytes."""
    tensors = {field.name: getattr(references, field.name).cpu().contiguous() for field in fields(references)[1:5]}
    tensors["keys"] = torch.frombuffer(bytearray(b"".join(references.keys)), dtype=torch.uint8).view(-1, 32)
    details = json.dumps(dict(references.details), sort_keys=True)
    return safetensors.torch.save(tensors, metadata={_FORMAT: details})


def from_bytes(content: bytes) -> References:
    """Read what `to_bytes` made. Raises ReferencesUnusable for another format, or rows that are missing, doubled or not finite."""
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        details = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_FORMAT])
        keys = tensors.pop("keys").numpy().tobytes()
        return References(keys=tuple(keys[i : i + 32] for i in range(0, len(keys), 32)), details=details, **tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ReferencesUnusable(f"the file is damaged or of another format ({type(error).__name__})") from error
