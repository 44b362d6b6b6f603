"""The weights that were kept after slices of a training: which of them a job may use, and which outlive it.

The model's details in the ledger list them: `slice`, `sha256`, `path` and `seen_sha256`, the commitment to the samples that the
training had used by then. Weights count only if these are exactly the samples of the slices up to theirs that still remain.
`fitted_to` says to which targets the loss was fitted, if it was. A list of an older version lacks it: there these were all of the
training set's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from connectors.storage import Storage
from ledger.registry.models import CHECKPOINTS
from ledger.sample_ids import KEY_BYTES, sample_digest, samples_sha256
from unlearning import ranks
from unlearning.data.samples import SampleSet
from unlearning.storage import load_weights, to_bytes
from unlearning.training.slices import SliceCheckpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicedTraining:
    """A training in slices: its samples, the name of their dataset, the key that hashes their IDs, and `Workload.fitted_to`."""

    samples: SampleSet
    dataset: str
    key: bytes = field(repr=False)
    fitted_to: str | None


def seen_sha256(training: SlicedTraining, number: int) -> str:
    """Commit to the samples of the slices up to `number`, under the oldest key: so it stays the same when the key is rotated."""
    samples, key = training.samples, training.key[:KEY_BYTES]
    seen = (sample for sample, own in zip(samples.ids, samples.slices or (), strict=True) if own <= number)
    return samples_sha256(sample_digest(key, training.dataset, sample) for sample in seen)


def describe_checkpoint(training: SlicedTraining, number: int, sha256: str) -> dict[str, str | int]:
    """Describe weights after slice `number` of a training, as a model's details list them."""
    found: dict[str, str | int] = {
        "slice": number,
        "sha256": sha256,
        "path": f"{sha256}.safetensors",
        "seen_sha256": seen_sha256(training, number),
    }
    return found if training.fitted_to is None else {**found, "fitted_to": training.fitted_to}


def usable_checkpoints(training: SlicedTraining, details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the checkpoints in a model's details that saw exactly what remains of the slices up to theirs, the earliest first.

    training: on what remains. Weights whose loss was fitted to other targets may have seen forgotten ones through it.
    """
    if training.samples.slices is None:
        return []
    listed: Sequence[Mapping[str, Any]] = details.get(CHECKPOINTS, ())
    usable = (
        entry
        for entry in listed
        if entry.get("fitted_to") == training.fitted_to
        and entry["seen_sha256"] == seen_sha256(training, int(entry["slice"]))
    )
    return sorted(usable, key=lambda entry: int(entry["slice"]))


def latest_checkpoint(usable: Sequence[Mapping[str, Any]], storage: Storage) -> SliceCheckpoint | None:
    """Return the latest of the usable checkpoints, to be loaded from the storage."""
    if not usable:
        return None
    latest = usable[-1]

    def load(model: nn.Module) -> None:
        load_weights(model, storage.fetch(latest["path"], latest["sha256"]), latest["sha256"])

    return SliceCheckpoint(number=int(latest["slice"]), load=load)


def keep_slice(training: SlicedTraining, storage: Storage, number: int, model: nn.Module) -> dict[str, str | int]:
    """Write the weights after a slice of a training into the storage, and describe them. Raises OSError."""
    content = to_bytes(model)
    _, sha256 = ranks.by_first(lambda: storage.put(content))
    return describe_checkpoint(training, number, sha256)
