"""Sample IDs in files: one a line."""

from collections.abc import Iterable, Iterator


def read_ids(lines: Iterable[str] | None) -> Iterator[str]:
    """Give the IDs of a file's lines, without what surrounds them; empty lines are none."""
    return filter(None, map(str.strip, lines or ()))
