"""Sets of samples that are read when they are needed: any map-style data set, with a sample ID for each item."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.utils.data
from torch import Tensor

from unlearning.data.batches import Batch, Inputs, all_tensors, joined_batch
from unlearning.data.loading import READ_SIZE, WAITED, Concatenated, Held, Source, Stored, read_item, stream
from unlearning.data.samples import SampleSet, check_names, check_slices, joined_columns
from unlearning.data.streams import WINDOW, Streamed, Value, read_first_pass
from unlearning.errors import InvalidWorkload, UnsupportedWorkload

Column = str | Sequence[object] | Callable[[int], object]
"""A value a sample: the name of a column or entry of the data set, all values in order, or a function of the item's number."""


class StoredSet(SampleSet):
    """A set of samples of which no more than some batches are in memory at a time.

    Make it with `StoredSet.of`. It stands wherever a SampleSet stands. `batch`, `inputs` and `targets` read everything: use
    `batches`, `select` or `epoch`. The targets, once read, are kept, on the CPU.
    """

    __slots__ = ("index", "pin", "place", "source", "workers")

    source: Source
    index: Tensor
    workers: int
    pin: bool
    place: torch.device

    def __init__(
        self,
        *,
        ids: tuple[str, ...],
        source: Source,
        index: Tensor,
        subjects: tuple[str, ...] | None,
        slices: tuple[int, ...] | None,
        workers: int,
        pin: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        values = {"ids": ids, "source": source, "index": index, "subjects": subjects, "slices": slices}
        for name, value in (*values.items(), ("workers", workers), ("pin", pin), ("place", torch.device(device))):
            object.__setattr__(self, name, value)

    @staticmethod
    def of(
        dataset: Any,
        *,
        ids: Column,
        targets: str | Sequence[Any] | Tensor | None = None,
        subjects: Column | None = None,
        slices: Column | None = None,
        training: Any = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = True,
    ) -> "StoredSet":
        """Make a set of any map-style data set, such as a torch Dataset, a Hugging Face data set, or a memory-mapped array.

        dataset: has `__len__` and `__getitem__`; gives the same item each time, without augmentation. Items are pairs (inputs,
            target), mappings whose entry `targets` is the target, or inputs alone with all `targets` given.
        ids, subjects, slices: see SampleSet; a sequence, a function of the item's number, or the name of a column or of a
            mapping's entry, which is then no input.
        targets: the name of a mapping's entry, or all targets in order. Where they are given, or a column of a Hugging Face data
            set, they need not be read with the samples once to be known.
        training: the same samples with augmentation, drawn from torch's, NumPy's or Python's global generator. It is used in
            training steps alone.
        collate_fn, num_workers, pin_memory: as in torch's DataLoader. Every batch must have samples of one shape: pad to a fixed
            length. Single draws are read by the process itself.
        Raises InvalidWorkload if lengths differ, an ID occurs twice or breaks the rule, or a column cannot be read.
        """
        count = _length(dataset)
        if training is not None and _length(training) != count:
            raise InvalidWorkload(f"The data set has {count} items and its variant for training {_length(training)}.")
        target = targets if isinstance(targets, str) else None
        given = targets if target is None else _column(dataset, target)
        if given is not None:
            given = torch.as_tensor(given)
            if given.dim() == 0 or len(given) != count:
                raise InvalidWorkload(
                    f"The data set has {count} items and {given.numel()} targets; give each sample one."
                )
        named = _values(dataset, ids)
        owners, steps = (None if column is None else _values(dataset, column) for column in (subjects, slices))
        if len(named) != count:
            raise InvalidWorkload(f"The data set has {count} items and {len(named)} ids; give each sample one.")
        checked, people = check_names(named, owners)
        source = Stored(
            dataset=dataset,
            training=training,
            collate=collate_fn or torch.utils.data.default_collate,
            target=target,
            given=given,
            aside=frozenset(name for name in (ids, subjects, slices) if isinstance(name, str)) - {target},
        )
        return StoredSet(
            ids=checked,
            source=source,
            index=torch.arange(count),
            subjects=people,
            slices=check_slices(steps, count=count),
            workers=num_workers,
            pin=pin_memory,
        )

    @staticmethod
    def of_stream(
        stream: Any,
        *,
        key: Value,
        targets: Value,
        inputs: Callable[[Any], Any] | None = None,
        subjects: Value | None = None,
        slices: Value | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        window: int = WINDOW,
        pin_memory: bool = True,
    ) -> "StoredSet":
        """Make a set of a stream, such as a torch IterableDataset or shards, whose samples come in the same order in each pass.

        One pass is made now. Afterwards the forget set is read by one pass, and what remains streams by in each epoch, in an order
        that is shuffled within `window` samples. Methods that draw samples at random refuse such a set.
        key: what an item's sample ID is; targets, subjects, slices: likewise, the name of an entry or a function of the item.
        inputs: what the model gets of an item; by default all of a mapping but these entries, or the first of a pair.
        Raises InvalidWorkload, with a place in the stream, for a key that is missing, doubled or no sample ID, and for items that
        cannot be read, and UnsupportedWorkload for what can be read only once.
        """
        given = {"targets": targets, "subjects": subjects, "slices": slices}
        columns = {name: value for name, value in given.items() if value is not None}
        named = {value for value in (key, *columns.values()) if isinstance(value, str)}
        collate, take = collate_fn or torch.utils.data.default_collate, inputs or partial(_inputs_of, named=named)

        def collated(found: Tensor) -> Stored:
            return Stored(
                dataset=range(len(found)),  # items are not read by number
                training=None,
                collate=lambda items: (collate([take(item) for item in items]), None),  # the targets are known
                target=None,
                given=found,
            )

        source, values = read_first_pass(stream, collated, key=key, columns=columns, window=window)
        count = len(source)
        ids, people = check_names(source.keys, values.get("subjects"))
        return StoredSet(
            ids=ids,
            source=source,
            index=torch.arange(count),
            subjects=people,
            slices=check_slices(values.get("slices"), count=count),
            workers=0,
            pin=pin_memory,
        )

    @property
    def random_access(self) -> bool:
        """Whether samples can be read in any order; not those of a stream."""
        return self.source.forward is None

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw the order of an epoch; for a stream it is that of the stream, shuffled within its window."""
        if not isinstance(self.source, Streamed):
            return SampleSet.order(self, generator)
        blocks = torch.split(self.index.argsort(), self.source.window)
        return torch.cat([block[torch.randperm(len(block), generator=generator)] for block in blocks])

    @property
    def stored(self) -> bool:
        """Its samples are read when they are needed."""
        return True

    @property
    def batch(self) -> Batch:
        """All samples as one batch, read into memory."""
        if not self.random_access:
            return self.select(torch.arange(len(self)))
        return joined_batch(*self.batches(READ_SIZE))

    @property
    def inputs(self) -> Inputs:
        """The inputs of all samples, read into memory."""
        return self.batch.inputs

    @property
    def targets(self) -> Tensor:
        """The targets of all samples, (n, …); those not known yet are read, once, by batches."""
        return self.source.targets(self.index, workers=self.workers).to(self.place)

    @property
    def device(self) -> torch.device:
        """Where its batches go."""
        return self.place

    def take(self, index: Tensor) -> "StoredSet":
        """Return the samples at the positions `index`, (k,) int64, in that order; nothing is read."""
        chosen = index.tolist()
        ids = tuple(self.ids[i] for i in chosen)
        subjects = None if self.subjects is None else tuple(self.subjects[i] for i in chosen)
        slices = None if self.slices is None else tuple(self.slices[i] for i in chosen)
        return self._like(ids=ids, subjects=subjects, slices=slices, index=self.index[index.cpu()])

    def select(self, index: Tensor, *, training: bool = False) -> Batch:
        """Read a batch of the samples at the positions `index`, (k,) int64. training: with augmentation."""
        with WAITED.counted():
            return self.source.read(self.index[index.cpu()].tolist(), training=training).to(self.place)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the samples in their order, in batches of `size`; the last may be smaller."""
        return self.stream(self.chunks(size))

    def stream(self, chunks: Sequence[Tensor], *, training: bool = False) -> Iterator[Batch]:
        """Yield a batch for each chunk of positions, read ahead by the set's worker processes. training: with augmentation."""
        pin = self.pin and self.place.type == "cuda"
        places = [self.index[chunk] for chunk in chunks]
        batches = stream(self.source, places, training=training, workers=self.workers, pin=pin)
        while True:
            with WAITED.counted():
                batch = next(batches, None)
                if batch is None:
                    return
                batch = (
                    batch.map(lambda tensor: tensor.to(self.place, non_blocking=True)) if pin else batch.to(self.place)
                )
            yield batch

    def in_memory(self) -> SampleSet:
        """Read the set into memory."""
        batch = self.batch
        return SampleSet(
            ids=self.ids, inputs=batch.inputs, targets=batch.targets, subjects=self.subjects, slices=self.slices
        )

    def to(self, device: torch.device | str) -> "StoredSet":
        """Return the set with its batches on `device`."""
        return self._like(device=torch.device(device))

    def convert_targets(self, convert: Callable[[Tensor], Tensor]) -> "StoredSet":
        """Return the samples with their targets converted: now, where they are known, or when they are read."""
        return self._like(source=self.source.converted(convert))

    def join(self, parts: Sequence[SampleSet]) -> "StoredSet":
        """Join sets of which some may be in memory, in their order; nothing is read. See `samples.joined`."""
        sources, indices = zip(*(_source_of(part) for part in parts), strict=True)
        columns = joined_columns(parts)
        alike = all(source is sources[0] for source in sources)
        if not alike and any(source.forward is not None for source in sources):
            raise UnsupportedWorkload(
                "The training set is a stream, and what is to be done with it joins it with other samples, which needs random "
                "access. Write the stream to files first."
            )
        if alike:
            return self._like(**columns, source=sources[0], index=torch.cat(indices))
        starts = tuple(accumulate((len(source) for source in sources[:-1]), initial=0))
        index = torch.cat([index + start for index, start in zip(indices, starts, strict=True)])
        return self._like(**columns, source=Concatenated(parts=sources, starts=starts), index=index)

    def _like(self, **changes: Any) -> "StoredSet":
        given = {
            name: getattr(self, name)
            for name in ("ids", "source", "index", "subjects", "slices", "workers", "pin", "device")
        }
        return StoredSet(**(given | changes))


def _inputs_of(item: Any, *, named: set[str]) -> Any:
    """Return what the model gets of a stream's item: a mapping without the named entries, or the first of a pair."""
    if isinstance(item, Mapping):
        return {name: value for name, value in item.items() if name not in named}
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0]
    raise UnsupportedWorkload(
        f"The stream gives a {type(item).__name__}; let each item be a mapping or a pair (inputs, rest), or say by `inputs` what "
        "the model gets of it."
    )


def _source_of(part: SampleSet) -> tuple[Source, Tensor]:
    """Return what a set is read from, and the positions of its samples in it."""
    if isinstance(part, StoredSet):
        return part.source, part.index
    return Held(batch=part.batch.map(Tensor.cpu)), torch.arange(len(part))


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:
        raise UnsupportedWorkload(
            f"A {type(dataset).__name__} has no length. A data set must be map-style, with `__len__` and `__getitem__`; make a set "
            "of a stream by StoredSet.of_stream(stream, key=…, targets=…)."
        ) from None


def _values(dataset: Any, given: Column) -> Sequence[object]:
    """Return a value for each item, in order."""
    if isinstance(given, str):
        found = _column(dataset, given)
        return [read_item(dataset, i, entry=given) for i in range(_length(dataset))] if found is None else found
    if callable(given):
        return [given(number) for number in range(_length(dataset))]
    return given


def _column(dataset: Any, name: str) -> Sequence[Any] | None:
    """Read a column of a data set that has columns, as Hugging Face's have; None for one that has none."""
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        return None
    if name not in columns:
        raise InvalidWorkload(f"The data set has no column {name!r}; it has {', '.join(map(str, columns))}.")
    return list(dataset.with_format(None)[name])


def read_twice(samples: SampleSet) -> SampleSet:
    """Read samples into memory. Raises InvalidWorkload, with a position, if a second reading in another order gives others."""
    read = samples.in_memory()
    if not isinstance(samples, StoredSet):
        return read
    backwards = torch.arange(len(samples)).flip(0)
    again = samples.take(backwards).in_memory().batch.take(backwards)
    tensors = zip(all_tensors(read.batch), all_tensors(again), strict=True)
    for (name, first), (_, second) in tensors:
        if first.shape != second.shape:
            raise InvalidWorkload(f"The data set gives {name} of another shape each time it is read.")
        changed = (first != second).reshape(len(first), -1).any(1).nonzero().flatten()
        if len(changed):
            raise InvalidWorkload(
                f"The data set's item at position {int(samples.index[changed[0]])} has other {name} each time it is read. "
                "Move what varies samples, such as augmentation, to `training`."
            )
    return read
