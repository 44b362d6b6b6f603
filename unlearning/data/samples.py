"""Sets of samples in memory: tensors with a sample ID each."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.utils.data
from torch import Tensor

from unlearning.errors import InvalidWorkload, UnsupportedWorkload
from verifier.sample_ids import InvalidSampleID, check_sample_id


class Batch(NamedTuple):
    """A batch of samples. inputs: (n, …). targets: (n, …)."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleSet:
    """A set of samples that fits in memory and is moved to the device once.

    ids: n distinct strings under the rule of `verifier.sample_ids`; integers, such as database keys, become their decimal digits.
    inputs: (n, …), any dtype. targets: (n, …), e.g. (n,) int64 class labels.
    subjects: the person whom each sample belongs to, n strings under the same rule, or None if that is not known.
    Raises InvalidWorkload if the lengths differ, an ID occurs twice, or an ID or a subject breaks the rule, and UnsupportedWorkload
    if inputs or targets are no dense tensor.
    """

    ids: tuple[str, ...]
    inputs: Tensor
    targets: Tensor
    subjects: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _to_ids(self.ids, "sample ID"))
        if self.subjects is not None:
            object.__setattr__(self, "subjects", _to_ids(self.subjects, "subject"))
        _check_tensor("inputs", self.inputs)
        _check_tensor("targets", self.targets)
        if not len(self.ids) == len(self.inputs) == len(self.targets):
            lengths = f"{len(self.ids)} ids, {len(self.inputs)} inputs, {len(self.targets)} targets"
            raise InvalidWorkload(f"A sample set has {lengths}; the three numbers must be equal.")
        if self.subjects is not None and len(self.subjects) != len(self.ids):
            raise InvalidWorkload(
                f"A sample set has {len(self.ids)} ids and {len(self.subjects)} subjects; give each sample one."
            )
        if len(set(self.ids)) != len(self.ids):
            raise InvalidWorkload(f"A sample set of {len(self.ids)} has only {len(set(self.ids))} distinct ids.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def batch(self) -> Batch:
        """All samples as one batch."""
        return Batch(self.inputs, self.targets)

    def take(self, index: Tensor) -> "SampleSet":
        """Return the samples at the positions `index`, (k,) int64, in that order."""
        chosen = index.tolist()
        return SampleSet(
            ids=tuple(self.ids[i] for i in chosen),
            inputs=self.inputs[index],
            targets=self.targets[index],
            subjects=None if self.subjects is None else tuple(self.subjects[i] for i in chosen),
        )

    def select(self, index: Tensor) -> Batch:
        """Return a batch of the samples at the positions `index`, (k,) int64, without their IDs."""
        places = sent(index, self.inputs.device)
        return Batch(self.inputs[places], self.targets[places])

    def to(self, device: torch.device | str) -> "SampleSet":
        """Copy the samples to `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def batch_count(self, size: int) -> int:
        """Compute how many batches `epoch` yields."""
        whole, rest = divmod(len(self), size)
        return max(1, whole + (rest > 1))

    def epoch(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield every sample once, in a random order, in batches of `size`.

        The last batch may be smaller; a single last sample joins the batch before it, because batch norm cannot train on one.
        """
        order = torch.randperm(len(self), generator=generator)
        for number in range(self.batch_count(size)):
            yield self.slice(order, number, size)

    def slice(self, order: Tensor, number: int, size: int) -> Batch:
        """Return batch `number`, from 0, of an epoch in the order `order`, (n,) int64; see `epoch`."""
        return self.select(self.places(order, number, size))

    def places(self, order: Tensor, number: int, size: int) -> Tensor:
        """Return the positions of the samples of batch `number`, (k,) int64; see `slice`."""
        last = number == self.batch_count(size) - 1
        return order[number * size : None if last else (number + 1) * size]

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Draw `size` distinct samples at random; all of them if there are fewer."""
        return self.select(torch.randperm(len(self), generator=generator)[:size])


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor that was drawn on the CPU to `device`, without waiting for what a GPU is computing.

    An ordinary copy to a GPU waits until all work before it is done; so does indexing its tensors by one of the CPU.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _check_tensor(name: str, value: object) -> None:
    """Raise UnsupportedWorkload, saying what to do, unless `value` is a dense tensor with a row a sample."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_nested or not value.dim():
            raise UnsupportedWorkload(
                f"The {name} of a sample set are a {value.layout} tensor of {value.dim()} dimensions; they must be a dense tensor "
                "with one row a sample. Pad or convert them."
            )
        return
    what = f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        what += f" with the keys {', '.join(map(str, value))}"
        hint = "Put them into one tensor, e.g. with torch.stack(…, 1), and take it apart in the model's forward."
    elif isinstance(value, torch.utils.data.Dataset):
        hint = "Load the data set into one tensor, e.g. with torch.stack([data[i] for i in range(len(data))])."
    else:
        hint = "Convert them, e.g. with torch.as_tensor(…)."
    raise UnsupportedWorkload(f"The {name} of a sample set are {what}; they must be one tensor in memory. {hint}")


def _to_ids(values: Iterable[object], name: str) -> tuple[str, ...]:
    """Return values as IDs, or raise InvalidWorkload, which names the first faulty one by its position and never quotes it."""
    return tuple(_to_id(value, name, position) for position, value in enumerate(values))


def _to_id(value: object, name: str, position: int) -> str:
    try:
        return check_sample_id(value if isinstance(value, str) else _decimal(value))
    except InvalidSampleID as fault:
        raise InvalidWorkload(f"The {name} at position {position} of a sample set {fault}.") from None


def _decimal(value: object) -> str:
    """Write an integer of any library as decimal digits. Raises InvalidSampleID for a value of another type."""
    try:
        return str(operator.index(value))  # type: ignore[arg-type]  # what has no index is what this finds out
    except TypeError:
        raise InvalidSampleID(f"is a {type(value).__name__}; give a string or an integer") from None


def in_batches(samples: Batch, size: int) -> Iterator[Batch]:
    """Yield the samples in their order, in batches of `size`."""
    for inputs, targets in zip(torch.split(samples.inputs, size), torch.split(samples.targets, size), strict=True):
        yield Batch(inputs, targets)


def joined_batch(*parts: Batch) -> Batch:
    """Join batches, in their order."""
    return Batch(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))


def joined(*parts: SampleSet) -> SampleSet:
    """Join the samples of several disjoint sets, in their order.

    Where one set knows its subjects, each sample of a set that does not is a subject of its own.
    """
    known = any(part.subjects is not None for part in parts)
    return SampleSet(
        ids=tuple(sample for part in parts for sample in part.ids),
        inputs=torch.cat([part.inputs for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
        subjects=tuple(name for part in parts for name in part.subjects or part.ids) if known else None,
    )


def partition(samples: SampleSet, sizes: tuple[int, ...], *, seed: int) -> tuple[SampleSet, ...]:
    """Draw disjoint random parts of the given sizes from one seed. Raises InvalidWorkload if there are too few samples."""
    if sum(sizes) > len(samples):
        raise InvalidWorkload(f"Parts of {sizes} need {sum(sizes)} samples; there are {len(samples)}.")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return tuple(samples.take(part) for part in torch.split(order[: sum(sizes)], list(sizes)))
