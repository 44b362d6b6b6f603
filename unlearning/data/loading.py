"""Read samples that are not in memory, from any map-style data set: by batches, in worker processes if asked for.

What goes wrong with one sample is reported by its position in the data set, never with its content: an error of the data set itself
may quote a file name, which may be a person's.
"""

import contextlib
import hashlib
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from unlearning.data.batches import Batch, all_tensors, joined_batch, map_tree
from unlearning.errors import InvalidWorkload, UnlearningError, UnsupportedWorkload

READ_SIZE = 64
"""Samples in a batch where nothing else gives its size. Each process reads two batches ahead, so this bounds the memory."""
_MIN_CHUNKS = 4
"""Batches. For fewer no worker processes are started: starting them takes longer."""


@dataclass(slots=True)
class Waited:
    """How long this process has waited for samples to be read, in seconds. Reading ahead, by worker processes, costs no waiting."""

    seconds: float = 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Add what happens inside."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun


WAITED = Waited()


class Source(Protocol):
    """Anything that samples are read from, by their positions.

    forward: where samples come in the order of a stream alone, yields a batch for each chunk of positions in one pass.
    """

    @property
    def forward(self) -> Callable[[Sequence[Tensor]], Iterator[Batch]] | None:
        """None where samples can be read in any order."""
        return None

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, positions: Sequence[int], *, training: bool) -> Batch:
        """Read a batch, on the CPU. training: read the variant of the samples for training steps, with augmentation."""

    def targets(self, positions: Tensor, *, workers: int) -> Tensor:
        """Return the targets of the samples at the positions (k,), on the CPU; what is not known yet is read, once."""

    def converted(self, convert: Callable[[Tensor], Tensor]) -> "Source":
        """Return the same samples with their targets converted."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Held(Source):
    """Samples in memory, on the CPU."""

    batch: Batch

    def __len__(self) -> int:
        return self.batch.size

    def read(self, positions: Sequence[int], *, training: bool) -> Batch:
        """Return the samples; they have one variant."""
        return self.batch.take(torch.tensor(positions, dtype=torch.int64))

    def targets(self, positions: Tensor, *, workers: int) -> Tensor:
        """Return their targets."""
        return self.batch.targets[positions]

    def converted(self, convert: Callable[[Tensor], Tensor]) -> "Held":
        """Return the same samples with their targets converted."""
        return Held(batch=Batch(self.batch.inputs, convert(self.batch.targets)))


@dataclass(slots=True, eq=False)
class _Known:
    """The targets read so far. values: of all samples, (n, …), once one is known. read: which are, (n,) bool."""

    read: Tensor
    values: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stored(Source):
    """A map-style data set.

    dataset: gives each item by its number. training: the same samples with augmentation, or None. collate: makes a batch of items.
    target: the entry of a batch that holds the targets, where a batch is a mapping. aside: its entries that are no inputs, such as
    the sample ID. given: all targets, (n, …), if they are known beforehand. convert: applied to targets that are read.
    """

    dataset: Any
    training: Any
    collate: Callable[[list[Any]], Any]
    target: str | None
    given: Tensor | None
    aside: frozenset[str] = frozenset()
    convert: tuple[Callable[[Tensor], Tensor], ...] = ()
    known: _Known = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", _Known(torch.zeros(len(self.dataset), dtype=torch.bool)))

    def __len__(self) -> int:
        return len(self.known.read)

    def read(self, positions: Sequence[int], *, training: bool) -> Batch:
        """Read the items, collate them and check the batch.

        The randomness of an augmentation follows from the positions alone, whose order is drawn anew in each epoch: it is the same
        in any process, and in a run that is resumed. Raises InvalidWorkload, with a position, for what cannot be read.
        """
        varied = training and self.training is not None
        seed = int.from_bytes(hashlib.sha256(np.asarray(positions, dtype=np.int64).tobytes()).digest()[:4], "little")
        items = []
        for number, position in enumerate(positions):
            with _seeded(seed + number) if varied else contextlib.nullcontext():
                items.append(read_item(self.training if varied else self.dataset, position))
        return self.batch_of(items, positions)

    def batch_of(self, items: list[Any], positions: Sequence[int]) -> Batch:
        """Collate items that were read at these positions, and check the batch. Raises InvalidWorkload as `read` does."""
        batch = self._split(_collated(self.collate, items, positions), positions)
        _check_batch(batch, positions)
        return batch

    def targets(self, positions: Tensor, *, workers: int) -> Tensor:
        """Return the given targets, or read the samples whose targets no earlier call has read."""
        if self.given is not None:
            return self.given[positions]
        known = self.known
        missing = positions[~known.read[positions]].unique()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        chunks = torch.split(missing, READ_SIZE) if len(missing) else ()
        for chunk, batch in zip(chunks, stream(self, chunks, workers=workers), strict=True):
            if known.values is None:
                known.values = batch.targets.new_zeros(len(known.read), *batch.targets.shape[1:])
            known.values[chunk], known.read[chunk] = batch.targets, True
        return torch.zeros(0, dtype=torch.int64) if known.values is None else known.values[positions]

    def converted(self, convert: Callable[[Tensor], Tensor]) -> "Stored":
        """Convert the given targets now, and others when they are read."""
        if self.given is not None:
            return replace(self, given=convert(self.given))
        return replace(self, convert=(*self.convert, convert))

    def _split(self, collated: Any, positions: Sequence[int]) -> Batch:
        """Take inputs and targets out of what `collate` gave."""
        targets: Any = None
        if isinstance(collated, Mapping):
            collated = {name: value for name, value in collated.items() if name not in self.aside}
        match collated:
            case Mapping() if self.target is not None:
                if self.target not in collated:
                    raise InvalidWorkload(
                        f"The data set's batches have no entry {self.target!r}, which `targets` names."
                    )
                targets = collated[self.target]
                inputs: Any = {name: value for name, value in collated.items() if name != self.target}
            case [first, second] if not hasattr(collated, "_fields") or isinstance(collated, Batch):
                inputs, targets = first, second
            case _:
                inputs = collated
        if self.given is not None:
            targets = self.given[torch.tensor(positions, dtype=torch.int64)]
        elif targets is None:
            raise UnsupportedWorkload(
                "The data set gives no targets: let each item be a pair (inputs, target), or give `targets`: the name of an entry, "
                "or all of them in order."
            )
        else:
            targets = torch.as_tensor(targets)
            for convert in self.convert:
                targets = convert(targets)
        return Batch(map_tree(lambda tensor: tensor, inputs), targets)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Concatenated(Source):
    """Several sources one after the other. starts: the first position of each."""

    parts: tuple[Source, ...]
    starts: tuple[int, ...]

    def read(self, positions: Sequence[int], *, training: bool) -> Batch:
        """Read each part's samples, and put them into the order asked for."""
        places = self._places(torch.tensor(positions, dtype=torch.int64))
        found = [part.read(inside.tolist(), training=training) for part, inside, _ in places]
        return joined_batch(*found).take(torch.cat([order for _, _, order in places]).argsort())

    def targets(self, positions: Tensor, *, workers: int) -> Tensor:
        """Return the parts' targets in the order asked for."""
        places = self._places(positions)
        found = torch.cat([part.targets(inside, workers=workers) for part, inside, _ in places])
        return found[torch.cat([order for _, _, order in places]).argsort()]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def converted(self, convert: Callable[[Tensor], Tensor]) -> "Concatenated":
        """Convert the targets of each part."""
        return replace(self, parts=tuple(part.converted(convert) for part in self.parts))

    def _places(self, positions: Tensor) -> list[tuple[Source, Tensor, Tensor]]:
        """Return each part that is needed with the positions in it and their places in the order asked for."""
        which = torch.bucketize(positions, torch.tensor(self.starts[1:]), right=True)
        found = []
        for number, (part, start) in enumerate(zip(self.parts, self.starts, strict=True)):
            order = (which == number).nonzero().flatten()
            if len(order):
                found.append((part, positions[order] - start, order))
        return found


def stream(
    source: Source, chunks: Sequence[Tensor], *, training: bool = False, workers: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Yield a batch for each chunk of positions, read ahead by `workers` processes. pin: into memory that a GPU copies from fast.

    Whatever the number of workers, the batches are the same. Raises InvalidWorkload as `Source.read` does.
    """
    if source.forward is not None:
        yield from source.forward(chunks)
        return
    if workers == 0 or len(chunks) < _MIN_CHUNKS:
        for chunk in chunks:
            yield source.read(chunk.tolist(), training=training)
        return
    loader = torch.utils.data.DataLoader(
        _Reading(source, training),
        batch_size=None,
        sampler=map(Tensor.tolist, chunks),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # or it would draw from the run's own random state
    )
    for found in loader:
        if isinstance(found, _Failed):
            raise found.kind(found.message) from None if found.cause is None else without_message(found.cause)
        yield found


class _Failed(NamedTuple):
    """An error of a worker process. As an exception it would arrive with its traceback, the sample's content included."""

    kind: type[UnlearningError]
    message: str
    cause: type[BaseException] | None


@dataclass(frozen=True, slots=True)
class _Reading(torch.utils.data.Dataset[Batch | _Failed]):
    """Reads whole batches, by their positions, in a worker process."""

    source: Source
    training: bool

    def __getitem__(self, positions: list[int]) -> Batch | _Failed:
        try:
            return self.source.read(positions, training=self.training)
        except UnlearningError as error:
            return _Failed(type(error), str(error), type(error.__cause__) if error.__cause__ else None)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of its own, in torch, NumPy and `random`; the process's random state does not change."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def read_item(dataset: Any, position: int, *, entry: str | None = None) -> Any:
    """Read one item, or one entry of it. Raises InvalidWorkload with its position."""
    try:
        item = dataset[position] if entry is None else dataset[position][entry]
    except Exception as error:
        raise InvalidWorkload(
            f"The data set's item at position {position} cannot be read: {cause(error)}."
        ) from without_message(type(error))
    # A memory-mapped row is copied: the file may be read-only, and its pages are not to stay.
    return np.array(item) if isinstance(item, np.ndarray) else item


def _collated(collate: Callable[[list[Any]], Any], items: list[Any], positions: Sequence[int]) -> Any:
    try:
        return collate(items)
    except Exception as error:
        raise InvalidWorkload(
            f"The collate function cannot make a batch of the {len(items)} items from position {positions[0]}: {cause(error)}. "
            "Items must be tensors, arrays or numbers of one shape, unless `collate_fn` pads them."
        ) from without_message(type(error))


def cause(error: Exception) -> str:
    """Say what kind of error it was and where, without its message, which may quote the sample."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def without_message(kind: type[BaseException]) -> BaseException | None:
    """Return an error of a kind without its message: a caller may ask whether it may pass, as that of a network may."""
    try:
        return kind.__new__(kind)
    except TypeError:
        return None


def _check_batch(batch: Batch, positions: Sequence[int]) -> None:
    """Raise InvalidWorkload unless there is a row a sample everywhere, of finite numbers."""
    for name, tensor in all_tensors(batch):
        if tensor.dim() == 0 or len(tensor) != len(positions):
            rows = len(tensor) if tensor.dim() else "no"
            raise InvalidWorkload(
                f"A batch of {len(positions)} samples from position {positions[0]} has {rows} rows in its {name}; the collate "
                "function must give one a sample."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            finite = torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)
            where = positions[int((~finite).nonzero()[0])]
            raise InvalidWorkload(
                f"The data set's item at position {where} has a number in its {name} that is not finite."
            )
