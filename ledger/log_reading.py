"""Reading the log: roots, proofs, entries, checkpoints; and erasing what opens an entry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, insert, select, tuple_
from sqlalchemy.orm import Session

from ledger.errors import InvalidPlace, UnknownEntry
from ledger.log import give_places
from ledger.merkle import Node, Range, consistency_ranges, fold, inclusion_ranges, nodes_of
from ledger.tables import LogCheckpoint, LogHead, LogLeaf, LogNode, LogOpening
from verifier.checkpoint import Checkpoint
from verifier.log import LogProof


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """The newest signed checkpoint."""

    size: int
    note: str


def head(session: Session) -> Checkpoint:
    """How far the log is now. Raises UnknownEntry while it is empty."""
    found = session.scalars(select(LogHead)).one_or_none()
    if found is None:
        raise UnknownEntry("the log is empty")
    return Checkpoint(origin=found.origin, size=found.size, root=fold(found.peaks))


def keep_checkpoint(session: Session, sign: Callable[[Checkpoint], str]) -> bool:
    """Give the waiting entries their places, sign how far the log is then, and keep that; tells whether there was anything new."""
    give_places(session)
    if session.scalar(select(LogHead.id)) is None:
        return False
    found = head(session)
    if session.get(LogCheckpoint, found.size) is not None:
        return False
    session.execute(insert(LogCheckpoint).values(size=found.size, note=sign(found)))
    return True


def newest_checkpoint(session: Session) -> CheckpointView:
    """The newest signed checkpoint. Raises UnknownEntry where none was signed yet."""
    found = session.scalar(select(LogCheckpoint).order_by(LogCheckpoint.size.desc()).limit(1))
    if found is None:
        raise UnknownEntry("no checkpoint of the log was signed yet")
    return CheckpointView(size=found.size, note=found.note)


def prove_leaf(session: Session, *, index: int, size: int) -> list[bytes]:
    """The path from a leaf to the root of the first `size` leaves. Raises InvalidPlace."""
    _within(session, size)
    try:
        return _hashes(session, inclusion_ranges(index, size))
    except ValueError as error:
        raise InvalidPlace(str(error)) from error


def prove_growth(session: Session, *, first: int, second: int) -> list[bytes]:
    """The path that shows the tree of `second` leaves to begin with that of `first`. Raises InvalidPlace."""
    _within(session, second)
    try:
        return _hashes(session, consistency_ranges(first, second))
    except ValueError as error:
        raise InvalidPlace(str(error)) from error


def find_leaf(session: Session, leaf_hash: bytes) -> int:
    """The place of a leaf, by its hash. Raises UnknownEntry."""
    index = session.scalar(select(LogLeaf.index).where(LogLeaf.hash == leaf_hash, LogLeaf.index.is_not(None)))
    if index is None:
        raise UnknownEntry("there is no such leaf in the log")
    return index


def list_leaves(session: Session, *, start: int, limit: int) -> list[bytes]:
    """The leaves from a place on, as the bytes that are hashed; they open nothing."""
    chosen = select(LogLeaf.leaf).where(LogLeaf.index >= start).order_by(LogLeaf.index).limit(limit)
    return list(session.scalars(chosen))


def prove_entry(session: Session, *, tenant_id: UUID, subject_id: UUID) -> LogProof:
    """The proof that something (by its id) was recorded, up to the newest checkpoint. Raises UnknownEntry."""
    checkpoint = newest_checkpoint(session)
    chosen = (
        select(LogLeaf.leaf, LogLeaf.index, LogOpening)
        .join(LogOpening, LogOpening.leaf_id == LogLeaf.id)
        .where(LogOpening.subject_id == subject_id, LogOpening.tenant_id == tenant_id)
        .order_by(LogLeaf.id.desc())
        .limit(1)
    )
    found = session.execute(chosen).one_or_none()
    leaf, index, opening = found or (b"", None, None)
    if opening is None or index is None or index >= checkpoint.size:
        raise UnknownEntry("it is not in the log, what opens it was erased, or no checkpoint covers it yet")
    return LogProof(
        leaf=leaf,
        content=opening.content,
        key=opening.key,
        index=index,
        path=tuple(prove_leaf(session, index=index, size=checkpoint.size)),
        checkpoint=checkpoint.note,
    )


def erase_opening(session: Session, *, tenant_id: UUID, subject_id: UUID) -> int:
    """Erase what opens the entries about something: the person is gone, the log stays whole. Gives how many entries."""
    mine = delete(LogOpening).where(LogOpening.subject_id == subject_id, LogOpening.tenant_id == tenant_id)
    return len(session.scalars(mine.returning(LogOpening.leaf_id)).all())


def _within(session: Session, size: int) -> None:
    there = session.scalar(select(LogHead.size)) or 0
    if not 0 <= size <= there:
        raise InvalidPlace(f"the log has {there} entries, not {size}")


def _hashes(session: Session, ranges: Sequence[Range]) -> list[bytes]:
    """The hash of each range, read in one go."""
    wanted = {node for part in ranges for node in nodes_of(part)}
    chosen = select(LogNode.level, LogNode.place, LogNode.hash).where(tuple_(LogNode.level, LogNode.place).in_(wanted))
    there = {Node(level, place): found for level, place, found in session.execute(chosen)}
    return [fold([there[node] for node in nodes_of(part)]) for part in ranges]
