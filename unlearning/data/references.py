"""Reference predictions: what models that never saw a sample say of it (docs/methods.md §8) [ours].

A cheap form of oracle matching (Georgiev et al., "Machine Unlearning via Simulated Oracle Matching", ICLR 2025, arXiv 2410.23232),
obtained by cross-fitting.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unlearning.data.near_copies import NEAR
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.errors import ReferencesUnusable

_FORMAT = "expunge-references-1"
_TENSORS = ("predictions", "losses", "unseen", "seen")
"""The fields of `References` with a row for each sample."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferencePredictions:
    """What a method may see of the references of n samples: no row of the audit's rounds.

    predictions: (n, k), or (n, 0) for an objective without outputs. losses: (n,), nats. whole: what models that saw none of a
    sample's class say of it, for those of the samples of which that is known: the positions among the n, (m,) int64, and (m, k);
    None if there are no such. others: finds the same of other samples, such as remaining ones; it raises ReferencesUnusable if a
    row is missing. None if there are no more.
    """

    predictions: Tensor
    losses: Tensor
    whole: tuple[Tensor, Tensor] | None = None
    others: "Callable[[SampleSet], ReferencePredictions] | None" = None

    def __len__(self) -> int:
        return len(self.losses)


def uninformed_references(objective: Objective, samples: SampleSet) -> ReferencePredictions:
    """Make references that know nothing but how often each target occurs: what a trial run aims at, in place of real ones."""
    predicts, others = objective.predicts, partial(uninformed_references, objective)
    if predicts is None:
        losses = torch.ones(len(samples))
        return ReferencePredictions(predictions=torch.empty(len(samples), 0), losses=losses, others=others)
    predictions = predicts.predictions(predicts.guess(samples.targets)).expand(len(samples), -1)
    losses = predicts.losses(predictions, samples.targets)
    return ReferencePredictions(predictions=predictions.float(), losses=losses.float(), others=others)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WholeClasses:
    """What models that saw none of a sample's class say of it: what a model is to say of it once the whole class is forgotten.

    keys: m distinct keys of training samples, as in References. predictions: (m, k), of one model for each class, float16.
    """

    keys: tuple[bytes, ...]
    predictions: Tensor

    def __post_init__(self) -> None:
        _check_rows(self.keys, {"predictions of whole classes": self.predictions})

    def find(self, keys: Sequence[bytes]) -> tuple[Tensor, Tensor] | None:
        """Find which of n samples have a row, (m,) int64, and the rows, (m, k); None if none has."""
        place = {key: number for number, key in enumerate(self.keys)}
        found = [(position, place[key]) for position, key in enumerate(keys) if key in place]
        if not found:
            return None
        positions, rows = (torch.tensor(each, dtype=torch.int64) for each in zip(*found, strict=True))
        return positions, self.predictions[rows.to(self.predictions.device)].float()

    def without(self, keys: set[bytes]) -> "WholeClasses | None":
        """Return all rows but these samples'; None if none is left."""
        kept = [number for number, key in enumerate(self.keys) if key not in keys]
        rows = torch.tensor(kept, dtype=torch.int64, device=self.predictions.device)
        chosen = WholeClasses(keys=tuple(self.keys[number] for number in kept), predictions=self.predictions[rows])
        return chosen if kept else None


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
    whole: the same of classes that may be forgotten as a whole, if the plan names any.
    """

    keys: tuple[bytes, ...]
    predictions: Tensor
    losses: Tensor
    unseen: Tensor
    seen: Tensor
    details: Mapping[str, Any]
    whole: WholeClasses | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __post_init__(self) -> None:
        _check_rows(self.keys, {name: getattr(self, name) for name in _TENSORS})

    @property
    def near_copies(self) -> float:
        """The share of the usual distance below which two samples are near-copies, of the plan (`ReferencePlan.near_copies`)."""
        return float(self.details.get("plan", {}).get("near_copies", NEAR))

    @property
    def prepared(self) -> int:
        """The number of samples that the reference models were trained for; those that were erased since have no row any more."""
        return int(self.details.get("samples", len(self)))

    def take(self, keys: Sequence[bytes]) -> "References":
        """Return the rows of these samples, in their order. Raises ReferencesUnusable if one is missing; it is not named."""
        place = {key: number for number, key in enumerate(self.keys)}
        missing = sum(key not in place for key in keys)
        if missing:
            raise ReferencesUnusable(f"{missing} of {len(keys)} samples have no row")
        return self._rows([place[key] for key in keys], tuple(keys))

    def for_method(self, keys: Sequence[bytes], *, key: Callable[[str], bytes] | None = None) -> ReferencePredictions:
        """Return what a method may see of these samples' rows. Raises ReferencesUnusable as `take` does.

        key: the key of a sample's ID, by which the method may ask for the rows of other samples.
        """
        rows = self.take(keys)
        return ReferencePredictions(
            predictions=rows.predictions.float(),
            losses=rows.losses,
            whole=None if self.whole is None else self.whole.find(keys),
            others=None if key is None else partial(self.of_samples, key),
        )

    def of_samples(self, key: Callable[[str], bytes], samples: SampleSet) -> ReferencePredictions:
        """Return what a method may see of a set's rows, `others` of other samples."""
        return self.for_method([key(sample) for sample in samples.ids])

    def without(self, keys: set[bytes]) -> "References":
        """Return all rows but these samples'; keys without a row are ignored."""
        kept = [number for number, key in enumerate(self.keys) if key not in keys]
        left = self._rows(kept, tuple(self.keys[number] for number in kept))
        return left if self.whole is None else replace(left, whole=self.whole.without(keys))

    def to(self, device: torch.device | str) -> "References":
        """Return the same rows on `device`."""
        moved = self._map(lambda tensor: tensor.to(device), self.keys)
        whole = self.whole and replace(self.whole, predictions=self.whole.predictions.to(device))
        return replace(moved, whole=whole)

    def _rows(self, index: list[int], keys: tuple[bytes, ...]) -> "References":
        rows = torch.tensor(index, dtype=torch.int64, device=self.losses.device)
        return self._map(lambda tensor: tensor[rows], keys)

    def _map(self, change: Callable[[Tensor], Tensor], keys: tuple[bytes, ...]) -> "References":
        tensors: dict[str, Any] = {name: change(getattr(self, name)) for name in _TENSORS}
        return References(keys=keys, details=self.details, **tensors)


def to_bytes(references: References) -> bytes:
    """Serialise as a safetensors file; equal references give equal bytes."""
    tensors = {name: getattr(references, name).cpu().contiguous() for name in _TENSORS}
    tensors["keys"] = _packed(references.keys)
    if references.whole is not None:
        tensors["whole_keys"] = _packed(references.whole.keys)
        tensors["whole_predictions"] = references.whole.predictions.cpu().contiguous()
    details = json.dumps(dict(references.details), sort_keys=True)
    return safetensors.torch.save(tensors, metadata={_FORMAT: details})


def from_bytes(content: bytes) -> References:
    """Read what `to_bytes` made, also before there were whole classes.

    Raises ReferencesUnusable for another format, or rows that are missing, doubled or not finite.
    """
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        details = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_FORMAT])
        keys, whole = _unpacked(tensors.pop("keys")), None
        if "whole_keys" in tensors:
            whole = WholeClasses(
                keys=_unpacked(tensors.pop("whole_keys")), predictions=tensors.pop("whole_predictions")
            )
        return References(keys=keys, details=details, whole=whole, **tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ReferencesUnusable(f"the file is damaged or of another format ({type(error).__name__})") from error


def _packed(keys: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 32)


def _unpacked(packed: Tensor) -> tuple[bytes, ...]:
    joined = packed.numpy().tobytes()
    return tuple(joined[i : i + 32] for i in range(0, len(joined), 32))


def _check_rows(keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
    """Raise ReferencesUnusable unless each tensor has a finite row for each key, and no key occurs twice."""
    for name, tensor in tensors.items():
        if len(tensor) != len(keys):
            raise ReferencesUnusable(f"{name} has {len(tensor)} rows; there are {len(keys)} keys")
        if not bool(torch.isfinite(tensor).all()):
            raise ReferencesUnusable(f"{name} has values that are not finite")
    if len(set(keys)) != len(keys):
        raise ReferencesUnusable("a sample has two rows")
