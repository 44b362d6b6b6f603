"""The transparency log: an append-only Merkle tree (RFC 6962) of requests, results, promotions and signing keys.

An entry is appended in the transaction of what it records, and gets its place in the tree in a later one, because places are given
in sequence. In one step, every request and every publication would wait for the one before it while it holds locks that others
wait for; the consistency test found that deadlock.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, cast, delete, func, insert, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import InvalidPlace, LogForked, UnknownEntry, WrongSampleKey
from ledger.sample_ids import seal
from ledger.tables import (
    Job,
    LogCheckpoint,
    LogHead,
    LogLeaf,
    LogNode,
    LogOpening,
    Model,
    ModelVersion,
    Report,
    SigningKey,
    Target,
    UnlearnRequest,
)
from ledger.transparency.merkle import Node, Range, consistency_ranges, fold, inclusion_ranges, nodes_of
from report.canonical import canonical_json, canonical_sha256
from verifier.log import LogProof, TreeHead, content_hmac
from verifier.merkle import leaf_hash, node_hash

KEY_BYTES = 32

CHUNK = 1000
"""Rows that are in memory at a time."""


class LogKind(StrEnum):
    """What an entry records."""

    REQUEST = "request"  # a request was received
    RESULT = "result"  # a job has ended, with a report or without
    PROMOTION = "promotion"  # a version is now served
    KEY = "key"  # a signing key was registered or revoked
    DISMISSAL = "dismissal"  # a request that had failed is no longer owed
    RESTORE = "restore"  # the database was restored from a backup; the log has a new origin from here on


def append(
    session: Session, kind: LogKind, *, tenant_id: UUID, subject_id: UUID, content: Mapping[str, object]
) -> None:
    """Append an entry in the caller's transaction, without waiting for others: `place_leaves` gives it its place in the tree."""
    text, key = canonical_json(content).decode(), secrets.token_bytes(KEY_BYTES)
    leaf_id = _add_leaf(session, kind, {"commitment": content_hmac(key, text)})
    session.execute(
        insert(LogOpening).values(leaf_id=leaf_id, tenant_id=tenant_id, subject_id=subject_id, key=key, content=text)
    )


def _add_leaf(session: Session, kind: LogKind, payload: Mapping[str, object]) -> int:
    """Insert a leaf with its kind, its time and a payload, and return its id."""
    leaf = canonical_json({"kind": kind.value, "at": now(session).isoformat(), **payload})
    made = insert(LogLeaf).values(leaf=leaf, hash=leaf_hash(leaf)).returning(LogLeaf.id)
    return session.scalars(made).one()


def place_leaves(session: Session, *, origin: str | None = None) -> int:
    """Put every committed entry without a place at the end of the tree, in the order of their ids. Returns how many.

    One transaction at a time does this. It locks the head until its end, and takes no other lock after that. origin: the log's new
    name, after a restore (`begin_new_origin`).
    """
    if session.scalar(select(LogLeaf.id).where(LogLeaf.index.is_(None)).limit(1)) is None:
        return 0
    head = _lock_head(session)
    waiting = session.execute(
        select(LogLeaf.id, LogLeaf.hash).where(LogLeaf.index.is_(None)).order_by(LogLeaf.id)
    ).all()
    size, peaks, nodes = head.size, head.peaks, []
    for place, (_, hashed) in enumerate(waiting, start=size):
        completed, peaks = _grown(peaks, place, hashed)
        nodes += completed
    if waiting:
        rows = [{"id": leaf_id, "index": place} for place, (leaf_id, _) in enumerate(waiting, start=size)]
        session.execute(update(LogLeaf), rows)
        session.execute(insert(LogNode), nodes)
        head.size, head.peaks, head.origin = size + len(waiting), peaks, origin or head.origin
        session.flush()
    return len(waiting)


def _lock_head(session: Session) -> LogHead:
    """Lock the head. It is created before the log's first entry."""
    locked = select(LogHead).with_for_update().execution_options(populate_existing=True)
    head = session.scalars(locked).one_or_none()
    if head is None:
        first = upsert(LogHead).values(id=1, origin=_make_origin(), size=0, peaks=[])
        session.execute(first.on_conflict_do_nothing())
        head = session.scalars(locked).one()
    return head


def _make_origin() -> str:
    return f"expunge.dev/log/{uuid4()}"


def _grown(peaks: list[bytes], index: int, leaf: bytes) -> tuple[list[dict[str, object]], list[bytes]]:
    """Add a leaf: give the nodes that it completes, itself included, and the peaks of the larger tree."""
    rest, level, place, found = list(peaks), 0, index, leaf
    nodes: list[dict[str, object]] = [{"level": 0, "place": place, "hash": found}]
    while place & 1:
        level, place, found = level + 1, place >> 1, node_hash(rest.pop(), found)
        nodes.append({"level": level, "place": place, "hash": found})
    return nodes, [*rest, found]


def log_request(
    session: Session, request: UnlearnRequest, *, samples_sha256: str, subjects_sha256: str | None = None
) -> None:
    """Record that a request was received: its deadline, its outcome by samples, and commitments to them and to its people."""
    by_person = (
        {} if subjects_sha256 is None else {"subjects": request.subjects_given, "subjects_sha256": subjects_sha256}
    )
    content = {
        "request": str(request.id),
        "received_at": request.received_at.isoformat(),
        "due_at": request.due_at.isoformat(),
        "regulation": request.regulation,
        "samples_sha256": samples_sha256,
        "accepted": request.accepted,
        "already_erased": request.already_erased,
        "not_in_training_set": request.not_in_training_set,
        **by_person,
    }
    append(session, LogKind.REQUEST, tenant_id=request.tenant_id, subject_id=request.id, content=content)


def log_result(session: Session, job: Job) -> None:
    """Record how a job ended. If the version that it made is served, record its promotion too."""
    served = select(Target.request_id).where(Target.job_id == job.id).order_by(Target.request_id)
    report = session.scalar(select(Report).where(Report.job_id == job.id))
    content: dict[str, object] = {
        "job": str(job.id),
        "state": job.state.value,
        "reason": job.reason.value if job.reason else None,
        "requests": [str(request_id) for request_id in session.scalars(served)],
        "report": None if report is None else _report_content(report),
    }
    append(session, LogKind.RESULT, tenant_id=job.tenant_id, subject_id=job.id, content=content)
    version = session.scalar(select(ModelVersion).where(ModelVersion.job_id == job.id))
    model = session.get_one(Model, job.model_id)
    if version is not None and model.served_version_id == version.id:
        log_promotion(session, model, version)


def log_dismissal(session: Session, request: UnlearnRequest) -> None:
    """Record that a request is no longer owed although it was not served, by whom and why."""
    content = {
        "request": str(request.id),
        "state": request.state.value,
        "by": request.dismissed_by,
        "reason": request.dismissal_reason,
    }
    append(session, LogKind.DISMISSAL, tenant_id=request.tenant_id, subject_id=request.id, content=content)


def log_promotion(session: Session, model: Model, version: ModelVersion) -> None:
    """Record that a version is now served."""
    content = {
        "model": model.name,
        "version": version.number,
        "weights_sha256": version.weights_sha256,
        "job": str(version.job_id) if version.job_id else None,
    }
    append(session, LogKind.PROMOTION, tenant_id=model.tenant_id, subject_id=version.id, content=content)


def log_key(session: Session, *, key_id: str, revoked: bool) -> None:
    """Record that a signing key was registered or revoked. The entry is not hidden by a commitment: it is about nobody.

    The log has grown then, so the next sweep signs it with the key that is to sign from now on.
    """
    _add_leaf(session, LogKind.KEY, {"key_id": key_id, "revoked": revoked})


def _report_content(report: Report) -> dict[str, object]:
    statement = None if report.statement is None else canonical_sha256(report.statement)
    return {
        "id": str(report.id),
        "sha256": report.sha256,
        "verdict": report.verdict.value,
        "statement_sha256": statement,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """The newest signed log checkpoint."""

    size: int
    note: str


def tree_head(session: Session) -> TreeHead:
    """Compute the current tree head. Raises UnknownEntry while the log is empty."""
    found = session.scalars(select(LogHead)).one_or_none()
    if found is None:
        raise UnknownEntry("the log is empty")
    return TreeHead(origin=found.origin, size=found.size, root=fold(found.peaks))


def sign_checkpoint(
    session: Session, sign: Callable[[TreeHead], str], *, last: TreeHead | None = None
) -> TreeHead | None:
    """Place the waiting entries, then sign and store a log checkpoint. Returns what was signed; None if there was nothing new.

    last: what was signed last, as the signer remembers it. Raises LogForked, and signs nothing, if the log does not continue it.
    """
    place_leaves(session)
    if session.scalar(select(LogHead.id)) is None:
        return None
    if last is not None:
        check_continues(session, last)
    found = tree_head(session)
    if session.get(LogCheckpoint, found.size) is not None:
        return None
    signed = upsert(LogCheckpoint).values(size=found.size, note=sign(found)).on_conflict_do_nothing()
    # Of two that sign the same tree at once, the second waits here for the first.
    return None if session.scalar(signed.returning(LogCheckpoint.size)) is None else found


def check_continues(session: Session, last: TreeHead) -> None:
    """Check that the log begins with a tree that was signed earlier, or that it was restored from a backup since, and says so.

    Raises LogForked. A database that was restored by its operator's own means is such a case: it has shrunk, and may have grown
    otherwise since.
    """
    then = f"It was signed with {last.size} entries as {last.origin}"
    found = session.scalars(select(LogHead).execution_options(populate_existing=True)).one_or_none()
    if found is None:
        raise LogForked(f"{then}, and is empty now. {_RESTORED}")
    if found.origin != last.origin:
        if last.origin not in {leaf["before"]["origin"] for leaf in _restores(session)}:
            raise LogForked(f"{then}, and is {found.origin} now. {_RESTORED}")
        return
    if found.size < last.size:
        raise LogForked(f"{then}, and has only {found.size} now. {_RESTORED}")
    if _hashes(session, [(0, last.size)]) != [last.root]:
        raise LogForked(f"{then}, and these have changed. {_RESTORED}")


_RESTORED = "If the database was restored from a backup, run `expunge restore`."


def _restores(session: Session) -> list[dict[str, Any]]:
    """Read the entries that record a restore: few among many, read only while a signer does not know the log's name."""
    found = session.scalars(select(LogLeaf.leaf).where(_of_kind(LogKind.RESTORE)))
    return [json.loads(leaf) for leaf in found]


def _of_kind(kind: LogKind) -> ColumnElement[bool]:
    is_kind: ColumnElement[bool] = cast(func.convert_from(LogLeaf.leaf, "UTF8"), JSONB)["kind"].astext == kind.value
    return is_kind


def begin_new_origin(session: Session) -> tuple[TreeHead, TreeHead]:
    """Give the log of a restored database a new name, and record what it was called; return its heads before and after.

    Its entries stay. Under its old name and key it would fork: auditors were shown entries that the backup lacks. Raises
    UnknownEntry for an empty log.
    """
    place_leaves(session)
    before = tree_head(session)
    origin = _make_origin()
    content = {"origin": before.origin, "size": before.size, "root": before.root.hex()}
    _add_leaf(session, LogKind.RESTORE, {"origin": origin, "before": content})
    session.execute(text("SET LOCAL expunge.new_origin = 'on'"))
    place_leaves(session, origin=origin)
    return before, tree_head(session)


def newest_checkpoint(session: Session) -> CheckpointView:
    """Find the newest signed log checkpoint. Raises UnknownEntry before the first."""
    found = session.scalar(select(LogCheckpoint).order_by(LogCheckpoint.size.desc()).limit(1))
    if found is None:
        raise UnknownEntry("no checkpoint of the log has been signed yet")
    return CheckpointView(size=found.size, note=found.note)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningState:
    """How far the log is signed: when its newest checkpoint was made, and since when its oldest unsigned entry waits."""

    signed_at: datetime | None
    waiting_since: datetime | None


def signing_state(session: Session) -> SigningState:
    """Tell how far the log is signed. Entries wait only if a signing key was ever registered."""
    newest = session.execute(
        select(LogCheckpoint.size, LogCheckpoint.created_at).order_by(LogCheckpoint.size.desc()).limit(1)
    ).one_or_none()
    size, signed_at = newest or (0, None)
    if session.scalar(select(SigningKey.key_id).limit(1)) is None:
        return SigningState(signed_at=signed_at, waiting_since=None)
    first = [
        session.scalar(select(LogLeaf.leaf).where(waits).order_by(order).limit(1))
        for waits, order in ((LogLeaf.index >= size, LogLeaf.index), (LogLeaf.index.is_(None), LogLeaf.id))
    ]
    times = [datetime.fromisoformat(json.loads(leaf)["at"]) for leaf in first if leaf is not None]
    return SigningState(signed_at=signed_at, waiting_since=min(times, default=None))


def prove_leaf(session: Session, *, index: int, size: int) -> list[bytes]:
    """Give the path from a leaf to the root of the first `size` leaves. Raises InvalidPlace."""
    _within(session, size)
    try:
        return _hashes(session, inclusion_ranges(index, size))
    except ValueError as error:
        raise InvalidPlace(str(error)) from error


def prove_growth(session: Session, *, first: int, second: int) -> list[bytes]:
    """Give the path which proves that the tree of `second` leaves extends that of `first`. Raises InvalidPlace."""
    _within(session, second)
    try:
        return _hashes(session, consistency_ranges(first, second))
    except ValueError as error:
        raise InvalidPlace(str(error)) from error


def find_leaf(session: Session, leaf_hash: bytes) -> int:
    """Find the index of a leaf by its hash. Raises UnknownEntry."""
    index = session.scalar(select(LogLeaf.index).where(LogLeaf.hash == leaf_hash, LogLeaf.index.is_not(None)))
    if index is None:
        raise UnknownEntry("the log has no such leaf")
    return index


def list_leaves(session: Session, *, start: int, limit: int) -> list[bytes]:
    """List the leaves from an index on, as the bytes that are hashed. They do not show what they commit to."""
    chosen = select(LogLeaf.leaf).where(LogLeaf.index >= start).order_by(LogLeaf.index).limit(limit)
    return list(session.scalars(chosen))


def prove_entry(session: Session, kind: LogKind, *, tenant_id: UUID, subject_id: UUID, sample_key: bytes) -> LogProof:
    """Prove, up to the newest log checkpoint, the last entry of a kind about a request, a job or a version.

    sample_key: under which a rotation has sealed what opens the entry. Raises UnknownEntry, WrongSampleKey.
    """
    checkpoint = newest_checkpoint(session)
    chosen = (
        select(LogLeaf.leaf, LogLeaf.index, LogOpening)
        .join(LogOpening, LogOpening.leaf_id == LogLeaf.id)
        .where(LogOpening.subject_id == subject_id, LogOpening.tenant_id == tenant_id)
        .where(_of_kind(kind))
        .order_by(LogLeaf.id.desc())
        .limit(1)
    )
    found = session.execute(chosen).one_or_none()
    leaf, index, opening = found or (b"", None, None)
    if opening is None or index is None or index >= checkpoint.size:
        raise UnknownEntry(
            "no entry that can be opened is covered by a checkpoint: not recorded, erased, or not signed yet"
        )
    key, content = opening.key, opening.content
    if opening.sealed:
        key, content = _seal_opening(sample_key, opening.leaf_id, key, content)
        if content_hmac(key, content) != json.loads(leaf)["commitment"]:
            raise WrongSampleKey(
                "what opens this entry of the log is sealed under another sample key than this process has"
            )
    return LogProof(
        leaf=leaf,
        content=content,
        key=key,
        index=index,
        path=tuple(prove_leaf(session, index=index, size=checkpoint.size)),
        checkpoint=checkpoint.note,
    )


_COMMITMENTS = ("samples_sha256", "subjects_sha256")
"""What a request's entry says of its samples and its people."""


def seal_openings(session: Session, *, old: bytes, new: bytes) -> None:
    """Seal what opens the entries of requests under the key `new`, in a rotation; what was sealed before was under `old`.

    Such an entry holds a hash of keyed hashes, and it cannot be changed: whoever had the old key could try guesses out on it.
    """
    columns = LogOpening.__table__.columns
    of_requests = select(*columns).join(LogLeaf, LogLeaf.id == LogOpening.leaf_id).where(_of_kind(LogKind.REQUEST))
    chosen = of_requests.with_for_update(of=LogOpening.__table__).execution_options(yield_per=CHUNK)
    for some in session.execute(chosen).mappings().partitions():
        rows = []
        for found in some:
            key, content = found["key"], found["content"]
            if found["sealed"]:
                key, content = _seal_opening(old, found["leaf_id"], key, content)
            key, content = _seal_opening(new, found["leaf_id"], key, content)
            rows.append({**found, "key": key, "content": content, "sealed": True})
        # Replaced, because a trigger refuses to change them.
        session.execute(delete(LogOpening).where(LogOpening.leaf_id.in_([row["leaf_id"] for row in rows])))
        session.execute(insert(LogOpening), rows)


def _seal_opening(sample_key: bytes, leaf_id: int, key: bytes, content: str) -> tuple[bytes, str]:
    """Seal what opens a request's entry, or open it again: its key, and the commitments in its content."""

    def turn(name: str, value: bytes) -> bytes:
        return seal(sample_key, f"log {leaf_id} {name}".encode(), value)

    found = json.loads(content)
    turned = {name: turn(name, bytes.fromhex(found[name])).hex() for name in _COMMITMENTS if name in found}
    return turn("key", key), canonical_json(found | turned).decode()


def erase_opening(session: Session, *, tenant_id: UUID, subject_id: UUID) -> int:
    """Erase what opens the entries about a request, job or version, and count them. The log itself stays whole."""
    mine = delete(LogOpening).where(LogOpening.subject_id == subject_id, LogOpening.tenant_id == tenant_id)
    return len(session.scalars(mine.returning(LogOpening.leaf_id)).all())


def _within(session: Session, size: int) -> None:
    current = session.scalar(select(LogHead.size)) or 0
    if not 0 <= size <= current:
        raise InvalidPlace(f"the log has {current} entries, not {size}")


def _hashes(session: Session, ranges: Sequence[Range]) -> list[bytes]:
    """Compute the hash of each range, with one query."""
    wanted = {node for part in ranges for node in nodes_of(part)}
    chosen = select(LogNode.level, LogNode.place, LogNode.hash).where(tuple_(LogNode.level, LogNode.place).in_(wanted))
    stored = {Node(level, place): found for level, place, found in session.execute(chosen)}
    return [fold([stored[node] for node in nodes_of(part)]) for part in ranges]
