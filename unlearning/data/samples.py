"""Sets of samples: tensors in memory with a sample ID each. `stored` has those that are read when they are needed."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
import torch.utils.data
from torch import Tensor

from unlearning.data.batches import Batch, Inputs, joined_batch, leaves, map_tree, sent
from unlearning.errors import InvalidWorkload, MethodRefused, UnsupportedWorkload
from verifier.sample_ids import InvalidSampleID, check_sample_id


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleSet:
    """A set of samples that fits in memory and is moved to the device once.

    ids: n distinct strings under the rule of `verifier.sample_ids`; integers, such as database keys, become their decimal digits.
    inputs: (n, …), any dtype, or a dict, tuple or list of such tensors, to any depth. targets: (n, …), e.g. (n,) int64 labels.
    subjects: the person whom each sample belongs to, n strings under the same rule, or None if that is not known.
    slices: the number of the slice in which each sample is learned first, n integers from 0 (`unlearning.training.slices`), or None
        if the set is learned all at once.
    Raises InvalidWorkload if the lengths differ, an ID occurs twice, or an ID, a subject or a slice breaks its rule, and
    UnsupportedWorkload if inputs or targets hold anything but dense tensors.
    """

    ids: tuple[str, ...]
    inputs: Inputs
    targets: Tensor
    subjects: tuple[str, ...] | None = None
    slices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        ids, subjects = check_names(self.ids, self.subjects)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "subjects", subjects)
        object.__setattr__(self, "slices", check_slices(self.slices, count=len(ids)))
        if isinstance(self.inputs, torch.utils.data.Dataset):
            raise UnsupportedWorkload(
                "The inputs of a sample set are a Dataset. Use StoredSet.of(dataset, ids=…), of unlearning.data.stored."
            )
        object.__setattr__(self, "inputs", map_tree(lambda tensor: tensor, self.inputs))
        tensors = list(leaves(self.inputs))
        for name, tensor in (*tensors, ("targets", self.targets)):
            _check_tensor(name, tensor)
        counts = sorted({len(tensor) for _, tensor in tensors})
        if counts != [len(self.ids)] or len(self.targets) != len(self.ids):
            inputs = " or ".join(map(str, counts)) or "no"
            lengths = f"{len(self.ids)} ids, {inputs} inputs, {len(self.targets)} targets"
            raise InvalidWorkload(f"A sample set has {lengths}; the three numbers must be equal.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def stored(self) -> bool:
        """Whether its samples are read when they are needed, and not in memory."""
        return False

    @property
    def batch(self) -> Batch:
        """All samples as one batch."""
        return Batch(self.inputs, self.targets)

    @property
    def device(self) -> torch.device:
        """Where its batches are."""
        return self.targets.device

    def take(self, index: Tensor) -> "SampleSet":
        """Return the samples at the positions `index`, (k,) int64, in that order."""
        chosen = index.tolist()
        taken = self.batch.take(index)
        return SampleSet(
            ids=tuple(self.ids[i] for i in chosen),
            inputs=taken.inputs,
            targets=taken.targets,
            subjects=None if self.subjects is None else tuple(self.subjects[i] for i in chosen),
            slices=None if self.slices is None else tuple(self.slices[i] for i in chosen),
        )

    def select(self, index: Tensor, *, training: bool = False) -> Batch:
        """Return a batch of the samples at the positions `index`, (k,) int64, without their IDs.

        training: for a training step, with the augmentation of a set that has one; a set in memory has none.
        """
        return self.batch.take(sent(index, self.device))

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the samples in their order, in batches of `size`; the last may be smaller."""
        return self.batch.batches(size)

    def chunks(self, size: int) -> Sequence[Tensor]:
        """Return the positions of the batches that `batches` yields, (k,) int64 each."""
        return torch.split(torch.arange(len(self)), size)

    def stream(self, chunks: Sequence[Tensor], *, training: bool = False) -> Iterator[Batch]:
        """Yield a batch for each chunk of positions, (k,) int64; see `select`."""
        for chunk in chunks:
            yield self.select(chunk, training=training)

    def in_memory(self) -> "SampleSet":
        """Return the set with all samples in memory."""
        return self

    def join(self, parts: Sequence["SampleSet"]) -> "SampleSet":
        """Join sets in memory, in their order; see `joined`."""
        everything = joined_batch(*(part.batch for part in parts))
        return SampleSet(inputs=everything.inputs, targets=everything.targets, **joined_columns(parts))

    def to(self, device: torch.device | str) -> "SampleSet":
        """Copy the samples to `device`."""
        moved = self.batch.map(lambda tensor: tensor.to(device))
        return replace(self, inputs=moved.inputs, targets=moved.targets)

    def convert_targets(self, convert: Callable[[Tensor], Tensor]) -> "SampleSet":
        """Return the samples with their targets converted."""
        return replace(self, targets=convert(self.targets))

    def batch_count(self, size: int) -> int:
        """Compute how many batches `epoch` yields."""
        whole, rest = divmod(len(self), size)
        return max(1, whole + (rest > 1))

    def epoch(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield every sample once, in a random order, in batches of `size` for training steps.

        The last batch may be smaller; a single last sample joins the batch before it, because batch norm cannot train on one.
        """
        order = self.order(generator)
        return self.stream(
            [self.places(order, number, size) for number in range(self.batch_count(size))], training=True
        )

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw the order of the samples in an epoch, (n,) int64."""
        return torch.randperm(len(self), generator=generator)

    def places(self, order: Tensor, number: int, size: int) -> Tensor:
        """Return the positions of batch `number`, from 0, (k,) int64, of an epoch in the order `order`, (n,) int64; see `epoch`."""
        last = number == self.batch_count(size) - 1
        return order[number * size : None if last else (number + 1) * size]

    @property
    def random_access(self) -> bool:
        """Whether samples can be read in any order."""
        return True

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Draw `size` distinct samples at random for a training step; all of them if there are fewer.

        Raises MethodRefused for a stream.
        """
        self.check_random_access("Draws of single batches")
        return self.select(torch.randperm(len(self), generator=generator)[:size], training=True)

    def check_random_access(self, what: str) -> None:
        """Raise MethodRefused for a stream. what: what needs random access, as the beginning of a sentence."""
        if not self.random_access:
            raise MethodRefused(
                f"{what} read samples in any order, and the training set is a stream. Use a method that reads it in turn, such as "
                "Retrain, or write the stream to files and use StoredSet.of."
            )


def _check_tensor(name: str, value: object) -> None:
    """Raise UnsupportedWorkload, saying what to do, unless `value` is a dense tensor with a row a sample."""
    if not isinstance(value, Tensor):
        raise UnsupportedWorkload(
            f"The {name} of a sample set are a {type(value).__name__}; they must be one tensor. Convert them, e.g. with "
            "torch.as_tensor(…)."
        )
    if value.layout is not torch.strided or value.is_nested or not value.dim():
        raise UnsupportedWorkload(
            f"The {name} of a sample set are a {value.layout} tensor of {value.dim()} dimensions; they must be a dense tensor "
            "with one row a sample. Pad or convert them."
        )


def check_names(
    ids: Iterable[object], subjects: Iterable[object] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return IDs and subjects as strings.

    Raises InvalidWorkload if one breaks the rule, an ID occurs twice, or their numbers differ.
    """
    checked, people = _to_ids(ids, "sample ID"), None if subjects is None else _to_ids(subjects, "subject")
    if people is not None and len(people) != len(checked):
        raise InvalidWorkload(f"A sample set has {len(checked)} ids and {len(people)} subjects; give each sample one.")
    if len(set(checked)) != len(checked):
        raise InvalidWorkload(f"A sample set of {len(checked)} has only {len(set(checked))} distinct ids.")
    return checked, people


def check_slices(slices: Iterable[object] | None, *, count: int) -> tuple[int, ...] | None:
    """Return the numbers of slices as integers. Raises InvalidWorkload unless there are `count` of them, each 0 or more."""
    if slices is None:
        return None
    numbers = tuple(slices)
    if len(numbers) != count:
        raise InvalidWorkload(f"A sample set has {count} ids and {len(numbers)} slices; give each sample one.")
    for position, number in enumerate(numbers):
        if isinstance(number, bool) or not hasattr(number, "__index__") or operator.index(number) < 0:
            raise InvalidWorkload(
                f"The slice at position {position} of a sample set is no integer from 0; number the slices in the order in which "
                "they are learned."
            )
    return tuple(operator.index(number) for number in numbers)  # type: ignore[arg-type]  # checked above


def _to_ids(values: Iterable[object], name: str) -> tuple[str, ...]:
    """Return values as IDs, or raise InvalidWorkload, which names the first faulty one by its position and never quotes it."""
    return tuple(_to_id(value, name, position) for position, value in enumerate(values))


def _to_id(value: object, name: str, position: int) -> str:
    try:
        return sample_id(value)
    except InvalidSampleID as fault:
        raise InvalidWorkload(f"The {name} at position {position} of a sample set {fault}.") from None


def sample_id(value: object) -> str:
    """Return a string, or an integer of any library as decimal digits. Raises InvalidSampleID if it breaks the rule."""
    if isinstance(value, str):
        return check_sample_id(value)
    try:
        return check_sample_id(str(operator.index(value)))  # type: ignore[arg-type]  # what has no index is what this finds out
    except TypeError:
        raise InvalidSampleID(f"is a {type(value).__name__}; give a string or an integer") from None


def joined(*parts: SampleSet) -> SampleSet:
    """Join the samples of several disjoint sets, in their order.

    Where one set knows its subjects, each sample of a set that does not is a subject of its own. Where one knows its slices, the
    samples of a set that does not are in the last.
    """
    lead = next((part for part in parts if part.stored), parts[0])
    return lead.join(parts)


class Columns(TypedDict):
    """What a sample set holds beside inputs and targets."""

    ids: tuple[str, ...]
    subjects: tuple[str, ...] | None
    slices: tuple[int, ...] | None


def joined_columns(parts: Sequence[SampleSet]) -> Columns:
    """Return the IDs of all parts, and their subjects and slices if a part knows its own."""
    subjects = slices = None
    if any(part.subjects is not None for part in parts):
        subjects = tuple(name for part in parts for name in part.subjects or part.ids)
    if any(part.slices is not None for part in parts):
        last = max((number for part in parts for number in part.slices or ()), default=0)
        slices = tuple(number for part in parts for number in part.slices or (last,) * len(part))
    return Columns(ids=tuple(sample for part in parts for sample in part.ids), subjects=subjects, slices=slices)


def partition(samples: SampleSet, sizes: tuple[int, ...], *, seed: int) -> tuple[SampleSet, ...]:
    """Draw disjoint random parts of the given sizes from one seed. Raises InvalidWorkload if there are too few samples."""
    if sum(sizes) > len(samples):
        raise InvalidWorkload(f"Parts of {sizes} need {sum(sizes)} samples; there are {len(samples)}.")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return tuple(samples.take(part) for part in torch.split(order[: sum(sizes)], list(sizes)))


def dealt(shuffle: Callable[[], Sequence[int]], size: int) -> Iterator[list[int]]:
    """Deal positions out like cards, without end: `size` distinct ones at a time, or all of them if there are fewer.

    shuffle: gives all positions in a new random order. Each is dealt once before any is dealt again, so the numbers of times that
    two were dealt never differ by more than one. Independent draws would use some samples far less often than others.
    """
    left: list[int] = []
    while True:
        if len(left) < size:
            order, kept = shuffle(), set(left)
            left += [place for place in order if place not in kept] + [place for place in order if place in kept]
        yield left[:size]
        left = left[size:]
