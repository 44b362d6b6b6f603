"""Near-copies: samples whose inputs are much nearer to one another than those of unrelated samples are [ours].

How near the nearest training sample usually is, held-out samples tell: their median is the *usual distance*. A model that saw a
near-copy of a sample knows the sample about as well as one that saw the sample itself.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array  # type: ignore[import-untyped]  # scipy ships no type information
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from torch import Tensor

from unlearning.data.batches import all_tensors, flat_inputs, leaves, raw_bytes
from unlearning.data.loading import READ_SIZE
from unlearning.data.samples import SampleSet

NEAR = 0.3
"""A near-copy is nearer than this share of the usual distance [ours; chosen on validation seeds, decision 36]."""
_COMPARISONS = 1e12
"""Multiplications that the search for some samples' near-copies may take: some seconds."""
_ALL_COMPARISONS = 1e13
"""The same for those of all samples: some minutes on a processor, where training takes hours."""
_COMPARED_NUMBERS = 2**25
"""Numbers (256 MiB) of the samples that are compared with the others at once."""
_PAIRS_LIMIT = 2**24
"""Pairs (256 MiB) that are kept at once: of a kind of sample that is common, nearly all are."""
_HELD_OUT = 256
"""Held-out samples that tell the usual distance."""
_COMMON = 0.05
"""A group with more than this share of all samples is a common kind of sample, and its members are no copies of one."""


class Copies(NamedTuple):
    """places: (n,) int64, the position of each sample's nearest near-copy; −1 where it has none. compared: the first so many of
    the samples were searched for.
    """

    places: Tensor
    compared: int

    @property
    def found(self) -> Tensor:
        """Which samples have one, (n,) bool."""
        return self.places >= 0


@torch.no_grad()
def find_copies(samples: SampleSet, others: SampleSet, *, held_out: SampleSet, within: float = NEAR) -> Copies:
    """Find the near-copies of some samples among others. Of large sets as many samples are compared as some seconds allow.

    within: the share of the usual distance; 0 compares nothing.
    """
    places = torch.full((len(samples),), -1, dtype=torch.int64)
    if not (within and len(samples) and len(others) and len(held_out)):
        return Copies(places, 0)
    width = flat_inputs(others.select(torch.arange(1))).shape[1]
    most = max(1, min(int(_COMPARISONS / (2 * len(others) * width)), _COMPARED_NUMBERS // width))
    usual, asked = (
        _rows(part, torch.arange(min(count, len(part)))) for part, count in ((held_out, _HELD_OUT), (samples, most))
    )
    distances, nearest = _nearest(torch.cat([usual, asked]), others, torch.arange(len(others)))
    near = distances[len(usual) :] <= within * distances[: len(usual)].median()
    places[: len(asked)] = torch.where(near, nearest[len(usual) :], -1).cpu()
    return Copies(places, len(asked))


@torch.no_grad()
def group_copies(samples: SampleSet, *, training: int, within: float = NEAR) -> NDArray[np.int64]:
    """Number n samples from 0, (n,), so that near-copies have one number.

    training: the first so many are the training set, the others are held out. Of sets too large for some minutes of comparison,
    only equal samples have one number.
    """
    count = len(samples)
    same = number_by_content(samples)
    _, first = np.unique(same, return_index=True)
    width = flat_inputs(samples.select(torch.arange(1))).shape[1]
    pairs = np.empty((0, 2), dtype=np.int64)
    if 0 < training < count and len(first) ** 2 / 2 * width <= _ALL_COMPARISONS:
        held_out = _rows(samples, torch.arange(training, min(count, training + _HELD_OUT)))
        usual = _nearest(held_out, samples, torch.arange(training))[0].median()
        pairs = _near_pairs(samples, torch.from_numpy(np.sort(first)), within=float(within * usual))
    # Samples of one content are nodes too, behind the samples.
    links = np.concatenate([np.stack([np.arange(count), count + same], axis=1), pairs])
    groups = components(links, nodes=count + int(same.max()) + 1)[:count]
    common = np.bincount(groups)[groups] > max(2.0, _COMMON * count)
    groups[common] = groups.max() + 1 + np.arange(int(common.sum()))
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def components(links: NDArray[np.int64], *, nodes: int) -> NDArray[np.int64]:
    """Number the nodes from 0, (nodes,), so that linked ones have one number. links: (m, 2), pairs of nodes."""
    graph = coo_array((np.ones(len(links), dtype=np.bool_), (links[:, 0], links[:, 1])), shape=(nodes, nodes))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _rows(samples: SampleSet, index: Tensor) -> Tensor:
    """Read the inputs of the samples at `index`, (k, d), in float64.

    `torch.cdist` subtracts products of rows; in float32 small distances would be lost where samples lie in groups far apart.
    """
    return torch.cat([flat_inputs(batch).double() for batch in samples.stream(torch.split(index, READ_SIZE))])


def _nearest(samples: Tensor, others: SampleSet, index: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the distance of each sample (n, d) to the nearest of the others at `index`, (n,), and the position of that, (n,)."""
    nearest = samples.new_full((len(samples),), torch.inf)
    places = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    chunks = torch.split(index, READ_SIZE)
    for chunk, batch in zip(chunks, others.stream(chunks), strict=True):
        compared = flat_inputs(batch).double()
        found = [torch.cdist(part, compared).min(dim=1) for part in torch.split(samples, 256)]
        distance, place = (torch.cat([each[number] for each in found]) for number in range(2))
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        places = torch.where(closer, chunk.to(places.device)[place], places)
    rounding = 1e-7 * samples.norm(dim=1).amax()
    return torch.where(nearest <= rounding, 0.0, nearest), places


def _near_pairs(samples: SampleSet, index: Tensor, *, within: float) -> NDArray[np.int64]:
    """List pairs of the samples at `index` that link all that are at most so far from one another, (m, 2) positions."""
    width = flat_inputs(samples.select(index[:1])).shape[1]
    found = [np.empty((0, 2), dtype=np.int64)]
    for block in torch.split(index, max(READ_SIZE, _COMPARED_NUMBERS // width)):
        others = _rows(samples, block)
        chunks = [chunk for chunk in torch.split(index, READ_SIZE) if chunk[0] <= block[-1]]
        for chunk, batch in zip(chunks, samples.stream(chunks), strict=True):
            near = torch.cdist(flat_inputs(batch).double(), others) <= within
            one, other = near.nonzero().cpu().unbind(1)
            pairs = torch.stack([chunk[one], block[other]], dim=1)
            found.append(pairs[pairs[:, 0] < pairs[:, 1]].numpy())
            if sum(map(len, found)) > _PAIRS_LIMIT:
                found = [_fewest(np.concatenate(found), nodes=len(samples))]
    return np.concatenate(found)


def _fewest(links: NDArray[np.int64], *, nodes: int) -> NDArray[np.int64]:
    """Link the same nodes by fewer pairs: each with the first one of its component, (m, 2)."""
    linked = np.unique(links)
    _, first, group = np.unique(components(links, nodes=nodes)[linked], return_index=True, return_inverse=True)
    return np.stack([linked, linked[first[group]]], axis=1)


def number_by_content(samples: SampleSet, *, targets: bool = False) -> NDArray[np.int64]:
    """Number the samples from 0 as they first come, (n,), so that those with equal inputs have one number. Reads them all.

    targets: whether those of one number must have equal targets too.
    """
    numbers: dict[bytes, int] = {}
    found: list[int] = []
    for batch in samples.batches(READ_SIZE):
        parts = [raw_bytes(tensor) for _, tensor in (all_tensors(batch) if targets else leaves(batch.inputs))]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
        found += [numbers.setdefault(digest, len(numbers)) for digest in digests]
    return np.array(found, dtype=np.int64)


def distinct_places(samples: SampleSet) -> NDArray[np.int64]:
    """Find the first of each group of samples with equal inputs and targets: their positions, (k,), ascending. Reads them all."""
    return np.unique(number_by_content(samples, targets=True), return_index=True)[1].astype(np.int64)


def take_places(samples: SampleSet, places: NDArray[np.int64]) -> SampleSet:
    """Return the samples at distinct positions, ascending; the set itself, and no copy, if these are all."""
    return samples if len(places) == len(samples) else samples.take(torch.from_numpy(places))
