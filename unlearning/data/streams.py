"""Samples that come in the order of a stream: an IterableDataset, or anything else that can be iterated anew, such as shards.

A stream has no length and no positions that can be asked for. One pass learns the key of each sample; later passes must give the
same keys in the same order. What goes wrong is reported by the sample's place in the stream, never with its key or content.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unlearning.data.batches import Batch
from unlearning.data.loading import Source, Stored, cause, without_message
from unlearning.data.samples import sample_id
from unlearning.errors import InvalidWorkload, MethodRefused, UnsupportedWorkload
from verifier.sample_ids import InvalidSampleID

WINDOW = 2048
"""Samples within which an epoch's order is shuffled. Twice as many, and a batch, are held in memory at most."""

Value = str | Callable[[Any], object]
"""A value of a sample: the name of an entry of the item, or a function of the item."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Streamed(Source):
    """A stream whose first pass is over.

    stream: gives the items anew in each pass. key: of an item. keys: of all items, as the first pass gave them. collated: makes
    batches of items. window: see `WINDOW`.
    """

    stream: Iterable[Any]
    key: Value
    keys: tuple[str, ...]
    collated: Stored
    window: int

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def forward(self) -> Callable[[Sequence[Tensor]], Iterator[Batch]]:
        """Yield batches in one pass."""
        return self._forward

    def read(self, positions: Sequence[int], *, training: bool) -> Batch:
        """Read the items in one pass, which ends with the last of them."""
        wanted = set(positions)
        found = {place: item for place, item in self._items(last=max(wanted, default=-1)) if place in wanted}
        return self.collated.batch_of([found[place] for place in positions], positions)

    def targets(self, positions: Tensor, *, workers: int) -> Tensor:
        """Return the targets that the first pass gave."""
        return self.collated.targets(positions, workers=0)

    def converted(self, convert: Callable[[Tensor], Tensor]) -> "Streamed":
        """Return the same samples with their targets converted."""
        return replace(self, collated=self.collated.converted(convert))

    def _forward(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield a batch a chunk. Raises MethodRefused if more than a window of samples would wait for one that comes later."""
        left = [chunk.tolist() for chunk in chunks]
        wanted = {place for chunk in left for place in chunk}
        held: dict[int, Any] = {}
        number = 0
        for place, item in self._items(last=max(wanted, default=-1)):
            if place not in wanted:
                continue
            held[place] = item
            while number < len(left) and all(position in held for position in left[number]):
                positions = left[number]
                number += 1
                yield self.collated.batch_of([held.pop(position) for position in positions], positions)
            waiting = len(left[number]) if number < len(left) else 0
            if len(held) > 2 * self.window + waiting:  # a batch may begin in one window of an epoch and end in another
                raise MethodRefused(
                    "The training set is a stream, and its samples are asked for in an order for which more than "
                    f"{2 * self.window} of them would have to be held in memory. Use a method that reads them in turn, such as "
                    "Retrain, or a data set with random access."
                )

    def _items(self, *, last: int) -> Iterator[tuple[int, Any]]:
        """Yield the items up to place `last`. Raises InvalidWorkload if they are not those of the first pass."""
        if last < 0:
            return
        for place, item in places_of(self.stream):
            if place >= len(self.keys) or key_of(item, self.key, place) != self.keys[place]:
                raise InvalidWorkload(
                    f"The stream gives another sample at place {place} than in its first pass. It must give the same samples in "
                    "the same order each time; sort its shards, and do not shuffle in it."
                )
            yield place, item
            if place == last:
                return
        raise InvalidWorkload(
            f"The stream ends before place {last}; in its first pass it had {len(self.keys)} samples. It must give the same "
            "samples each time."
        )


def read_first_pass(
    stream: Iterable[Any],
    collated: Callable[[Tensor], Stored],
    *,
    key: Value,
    columns: Mapping[str, Value],
    window: int,
) -> tuple[Streamed, dict[str, list[object]]]:
    """Read a stream once: its keys, its targets and the columns. Returns the source, and the values of each column.

    collated: makes the collation of batches, given all targets. columns: has `targets`.
    Raises InvalidWorkload for a key that is missing, breaks the rule of sample IDs or occurs twice, and UnsupportedWorkload for
    what can be iterated only once.
    """
    try:
        again = iter(stream)
    except TypeError:
        raise UnsupportedWorkload(f"A {type(stream).__name__} cannot be iterated; give an IterableDataset.") from None
    if again is stream:
        raise UnsupportedWorkload(
            f"A {type(stream).__name__} can be read once only, and a stream is read in each epoch. Give an IterableDataset, or "
            "an object whose `__iter__` begins anew."
        )
    seen: dict[str, int] = {}
    found: dict[str, list[object]] = {name: [] for name in columns}
    for place, item in places_of(stream):
        name = key_of(item, key, place)
        if name in seen:
            raise InvalidWorkload(
                f"The samples at the places {seen[name]} and {place} of the stream have the same key."
            )
        seen[name] = place
        for column, value in columns.items():
            found[column].append(value_of(item, value, place, column))
    if not seen:
        raise InvalidWorkload("The stream is empty.")
    try:
        targets = torch.stack([torch.as_tensor(target) for target in found["targets"]])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidWorkload(
            f"The targets of the stream cannot be put into one tensor ({type(error).__name__}); give numbers of one shape."
        ) from without_message(type(error))
    keys = tuple(seen)
    return Streamed(stream=stream, key=key, keys=keys, collated=collated(targets), window=window), found


def places_of(stream: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Yield the items with their places. Raises InvalidWorkload, with a place, for what cannot be read."""
    place = 0
    try:
        iterator = iter(stream)
        while True:
            item = next(iterator)
            yield place, item
            place += 1
    except StopIteration:
        return
    except Exception as error:
        raise InvalidWorkload(
            f"The stream's sample at place {place} cannot be read: {cause(error)}."
        ) from without_message(type(error))


def key_of(item: Any, key: Value, place: int) -> str:
    """Return an item's key as a sample ID. Raises InvalidWorkload, with its place."""
    try:
        return sample_id(value_of(item, key, place, "key"))
    except InvalidSampleID as fault:
        raise InvalidWorkload(f"The key at place {place} of the stream {fault}.") from None


def value_of(item: Any, value: Value, place: int, name: str) -> object:
    """Return a value of an item. Raises InvalidWorkload, with its place, if it has none."""
    try:
        return value(item) if callable(value) else item[value]
    except Exception as error:
        raise InvalidWorkload(
            f"The {name} of the stream's sample at place {place} is missing: {cause(error)}."
        ) from without_message(type(error))
