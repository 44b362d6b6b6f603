"""Commitments to the samples that a job has erased, and to the people who asked for it: Merkle roots over salted leaves.

One sample or one person can be shown without the others. The leaves are sorted by their hashes, so that their order says nothing.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Table, func, insert, select, update
from sqlalchemy.orm import Session

from ledger.errors import NotInReport, UnknownReport
from ledger.sample_ids import sample_digest, seal, subject_digest, subject_opening
from ledger.tables import Job, Report
from ledger.tables.samples import commitment_leaves, subject_leaves
from ledger.transparency.merkle import inclusion_path
from verifier.commitment import SALT_BYTES, Inclusion, SubjectInclusion, sample_leaf, subject_leaf
from verifier.merkle import root_hash

CHUNK = 10_000
"""Leaves that are in memory at a time while a proof is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """The leaf of a sample or a person: its hash, the digest of whom it is about, and the salt, 32 bytes each."""

    hash: bytes
    digest: bytes
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """The leaves in their order, and their root (SHA-256 hex). sealed: whether the salts are, as they are stored."""

    root: str
    leaves: tuple[Leaf, ...]
    sealed: bool = False

    def seal(self, key: bytes) -> "Commitment":
        """Seal the salts under the sample key. Whoever read them could try IDs and names."""
        leaves = tuple(replace(leaf, salt=seal(key, leaf.hash, leaf.salt)) for leaf in self.leaves)
        return replace(self, leaves=leaves, sealed=True)


def commit_samples(dataset: str, ids: Iterable[str], *, key: bytes) -> Commitment:
    """Commit to samples. The ID that the person knows goes into the leaf's hash and is not stored; its digest is."""
    return _commit(
        (sample_digest(key, dataset, one), partial(sample_leaf, dataset=dataset, sample_id=one)) for one in ids
    )


def commit_subjects(people: Mapping[bytes, bytes | None], *, key: bytes) -> Commitment | None:
    """Commit to people, given by their digests, each with the sealed commitment (`ledger.sample_ids.commit_to_subject`).

    None if there are none, and if one has no commitment, as in requests from before these were kept.
    """
    if not people or None in people.values():
        return None
    return _commit(
        (subject, partial(subject_leaf, commitment=seal(key, subject, sealed)))
        for subject, sealed in people.items()
        if sealed is not None
    )


def _commit(entries: Iterable[tuple[bytes, Callable[[bytes], bytes]]]) -> Commitment:
    leaves = []
    for digest, hash_leaf in entries:
        salt = secrets.token_bytes(SALT_BYTES)
        leaves.append(Leaf(hash=hash_leaf(salt), digest=digest, salt=salt))
    leaves.sort(key=lambda leaf: leaf.hash)
    return Commitment(root=root_hash([leaf.hash for leaf in leaves]).hex(), leaves=tuple(leaves))


def record_commitment(session: Session, job_id: UUID, commitment: Commitment, people: Commitment | None = None) -> None:
    """Store a job's leaves, in the caller's transaction. Proofs of inclusion are made from them. people: sealed."""
    _insert(session, commitment_leaves, "digest", job_id, commitment, sealed=commitment.sealed)
    if people is not None:
        _insert(session, subject_leaves, "subject", job_id, people)


def _insert(
    session: Session, table: Table, digest_name: str, job_id: UUID, commitment: Commitment, **more: bool
) -> None:
    rows = [
        {"job_id": job_id, "place": place, "leaf": leaf.hash, digest_name: leaf.digest, "salt": leaf.salt, **more}
        for place, leaf in enumerate(commitment.leaves)
    ]
    if rows:
        session.execute(insert(table), rows)


def prove_inclusion(
    session: Session, *, tenant_id: UUID, report_id: UUID, dataset: str, sample_id: str, digest: bytes, key: bytes
) -> Inclusion:
    """Prove that a sample is among those of a report. Raises UnknownReport, and NotInReport, which does not name the ID."""
    leaf = commitment_leaves.c.digest == digest
    found = _find_leaf(session, commitment_leaves, leaf, tenant_id=tenant_id, report_id=report_id, key=key)
    if found is None:
        raise NotInReport("the sample is not among those of this report, or the link to it was erased")
    return Inclusion(dataset=dataset, sample_id=sample_id, **found)


def prove_subject(session: Session, *, tenant_id: UUID, report_id: UUID, subject: str, key: bytes) -> SubjectInclusion:
    """Prove that a person is among those of a report. Raises UnknownReport, and NotInReport, the same for whoever is not."""
    leaf = subject_leaves.c.subject == subject_digest(key, subject)
    found = _find_leaf(session, subject_leaves, leaf, tenant_id=tenant_id, report_id=report_id, key=key)
    if found is None:
        raise NotInReport(
            "the person is not among those who asked for this report's erasure by name, or the link was erased"
        )
    return SubjectInclusion(subject=subject, opening=subject_opening(key, subject), **found)


def _find_leaf(
    session: Session, table: Table, chosen: ColumnElement[bool], *, tenant_id: UUID, report_id: UUID, key: bytes
) -> dict[str, Any] | None:
    """Find a leaf of a report, and give what every proof has: the opened salt, and where the leaf is in the tree.

    None if there is no such leaf. Raises UnknownReport.
    """
    job_id = session.scalar(select(Report.job_id).where(Report.id == report_id, Report.tenant_id == tenant_id))
    if job_id is None:
        raise UnknownReport(f"there is no report {report_id}")
    of_job = table.c.job_id == job_id
    found = session.execute(select(table).where(of_job, chosen)).mappings().one_or_none()
    if found is None:
        return None
    size = session.scalars(select(func.max(table.c.place) + 1).where(of_job)).one()
    in_order = select(table.c.leaf).where(of_job).order_by(table.c.place).execution_options(yield_per=CHUNK)
    with session.scalars(in_order) as leaves:
        path = inclusion_path(leaves, found["place"], size)
    is_sealed = found.get("sealed", True)  # a person's always is
    return {
        "report_id": str(report_id),
        "salt": seal(key, found["leaf"], found["salt"]) if is_sealed else found["salt"],
        "index": found["place"],
        "size": size,
        "path": tuple(path),
    }


def unlink_sample(session: Session, *, tenant_id: UUID, digest: bytes) -> int:
    """Erase the link between a tenant's sample and its leaves, and count these. Every root and every other proof stays valid."""
    return _unlink(session, commitment_leaves, "digest", digest, tenant_id=tenant_id)


def unlink_subject(session: Session, *, tenant_id: UUID, subject: bytes) -> int:
    """Erase the link between a tenant's subject, given by its digest, and its leaves, and count these."""
    return _unlink(session, subject_leaves, "subject", subject, tenant_id=tenant_id)


def _unlink(session: Session, table: Table, digest_name: str, digest: bytes, *, tenant_id: UUID) -> int:
    of_tenant = table.c.job_id.in_(select(Job.id).where(Job.tenant_id == tenant_id))
    erased = update(table).where(table.c[digest_name] == digest, of_tenant).values({digest_name: None, "salt": None})
    return len(session.execute(erased.returning(table.c.place)).all())
