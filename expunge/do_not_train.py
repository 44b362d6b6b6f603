"""Which samples a training may still use: the service lists by keyed hash what it may not, and only who has the key can tell."""

from collections.abc import Iterable, Iterator, Set
from typing import Literal

import httpx

from expunge.client import stream_lines
from ledger.sample_ids import sample_digest


def fetch_digests(client: httpx.Client, kind: Literal["models", "datasets"], name: str) -> frozenset[bytes]:
    """Read the do-not-train list of a model, or of a whole dataset. Raises Refused, ServiceUnreachable."""
    return frozenset(bytes.fromhex(line) for line in stream_lines(client, f"/{kind}/{name}/do-not-train"))


def may_train(sample_ids: Iterable[str], *, dataset: str, key: bytes, left_out: Set[bytes]) -> Iterator[str]:
    """Those of the sample IDs that are not on the list, in their order. dataset: its name. key: the service's sample key."""
    return (each for each in sample_ids if sample_digest(key, dataset, each) not in left_out)


def may_not_train(sample_ids: Iterable[str], *, dataset: str, key: bytes, left_out: Set[bytes]) -> Iterator[str]:
    """Those of the sample IDs that are on the list, in their order."""
    return (each for each in sample_ids if sample_digest(key, dataset, each) in left_out)
