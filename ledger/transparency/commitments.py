"""Commitments to the samples that a job has erased, and to the people who asked for it: Merkle roots over salted leaves.

One sample or one person can be shown without the others. The leaves are sorted by their hashes, so that their order says nothing.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from sqlalchemy import ColumnElement, Table, insert, select, update
from sqlalchemy.orm import Session

from ledger.errors import NotInReport, UnknownReport
from ledger.sample_ids import seal, subject_digest, subject_opening
from ledger.tables import Job, Report
from ledger.tables.samples import commitment_leaves, subject_leaves
from ledger.transparency.merkle import inclusion_path
from verifier.commitment import SALT_BYTES, Inclusion, SubjectInclusion, sample_leaf, subject_leaf
from verifier.merkle import root_hash


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


def commit_samples(dataset: str, samples: Iterable[tuple[bytes, str]]) -> Commitment:
    """Commit to samples, each given by its digest and its ID. The ID goes into the leaf's hash and is not stored."""
    return _commit(
        (digest, partial(sample_leaf, dataset=dataset, sample_id=sample_id)) for digest, sample_id in samples
    )


def commit_subjects(subjects: Iterable[tuple[bytes, bytes]]) -> Commitment:
    """Commit to people, each given by the digest and the opened commitment (`ledger.sample_ids.commit_to_subject`)."""
    return _commit((digest, partial(subject_leaf, commitment=commitment)) for digest, commitment in subjects)


def _commit(entries: Iterable[tuple[bytes, Callable[[bytes], bytes]]]) -> Commitment:
    leaves = []
    for digest, hash_leaf in entries:
        salt = secrets.token_bytes(SALT_BYTES)
        leaves.append(Leaf(hash=hash_leaf(salt), digest=digest, salt=salt))
    leaves.sort(key=lambda leaf: leaf.hash)
    return Commitment(root=root_hash([leaf.hash for leaf in leaves]).hex(), leaves=tuple(leaves))


def record_commitment(session: Session, job_id: UUID, commitment: Commitment, people: Commitment | None = None) -> None:
    """Store a job's leaves, in the caller's transaction. Proofs of inclusion are made from them. people: sealed."""
    rows = [
        {
            "job_id": job_id,
            "place": place,
            "leaf": leaf.hash,
            "digest": leaf.digest,
            "salt": leaf.salt,
            "sealed": commitment.sealed,
        }
        for place, leaf in enumerate(commitment.leaves)
    ]
    if rows:
        session.execute(insert(commitment_leaves), rows)
    named = [
        {"job_id": job_id, "place": place, "leaf": leaf.hash, "subject": leaf.digest, "salt": leaf.salt}
        for place, leaf in enumerate(people.leaves if people is not None else ())
    ]
    if named:
        session.execute(insert(subject_leaves), named)


def prove_inclusion(
    session: Session, *, tenant_id: UUID, report_id: UUID, dataset: str, sample_id: str, digest: bytes, key: bytes
) -> Inclusion:
    """Prove that a sample is among those of a report. Raises UnknownReport, and NotInReport, which does not name the ID."""
    job_id = _find_job(session, tenant_id=tenant_id, report_id=report_id)
    leaves = commitment_leaves.c
    mine = select(leaves.place, leaves.leaf, leaves.salt, leaves.sealed)
    found = session.execute(mine.where(leaves.job_id == job_id, leaves.digest == digest)).one_or_none()
    if found is None:
        raise NotInReport("the sample is not among those of this report, or the link to it was erased")
    place, leaf, salt, sealed = found
    size, path = _find_path(session, commitment_leaves, job_id, place)
    return Inclusion(
        report_id=str(report_id),
        dataset=dataset,
        sample_id=sample_id,
        salt=seal(key, leaf, salt) if sealed else salt,
        index=place,
        size=size,
        path=path,
    )


def prove_subject(session: Session, *, tenant_id: UUID, report_id: UUID, subject: str, key: bytes) -> SubjectInclusion:
    """Prove that a person is among those of a report. Raises UnknownReport, and NotInReport, the same for whoever is not."""
    job_id = _find_job(session, tenant_id=tenant_id, report_id=report_id)
    leaves = subject_leaves.c
    mine = select(leaves.place, leaves.leaf, leaves.salt)
    chosen = mine.where(leaves.job_id == job_id, leaves.subject == subject_digest(key, subject))
    found = session.execute(chosen).one_or_none()
    if found is None:
        raise NotInReport(
            "the person is not among those who asked for this report's erasure by name, or the link was erased"
        )
    place, leaf, salt = found
    size, path = _find_path(session, subject_leaves, job_id, place)
    return SubjectInclusion(
        report_id=str(report_id),
        subject=subject,
        opening=subject_opening(key, subject),
        salt=seal(key, leaf, salt),
        index=place,
        size=size,
        path=path,
    )


def _find_job(session: Session, *, tenant_id: UUID, report_id: UUID) -> UUID:
    job_id = session.scalar(select(Report.job_id).where(Report.id == report_id, Report.tenant_id == tenant_id))
    if job_id is None:
        raise UnknownReport(f"there is no report {report_id}")
    return job_id


def _find_path(session: Session, table: Table, job_id: UUID, place: int) -> tuple[int, tuple[bytes, ...]]:
    """Give the size of a job's tree, and the hashes from one of its leaves to the root."""
    every = select(table.c.leaf).where(table.c.job_id == job_id).order_by(table.c.place)
    leaves = list(session.scalars(every))
    return len(leaves), tuple(inclusion_path(leaves, place))


def unlink_sample(session: Session, *, tenant_id: UUID, digest: bytes) -> int:
    """Erase the link between a tenant's sample and its leaves, and count these. Every root and every other proof stays valid."""
    erased = update(commitment_leaves).where(
        commitment_leaves.c.digest == digest, _of_tenant(commitment_leaves, tenant_id)
    )
    places = erased.values(digest=None, salt=None).returning(commitment_leaves.c.place)
    return len(session.execute(places).all())


def unlink_subject(session: Session, *, tenant_id: UUID, subject: bytes) -> int:
    """Erase the link between a tenant's subject and its leaves, and count these."""
    erased = update(subject_leaves).where(subject_leaves.c.subject == subject, _of_tenant(subject_leaves, tenant_id))
    places = erased.values(subject=None, salt=None).returning(subject_leaves.c.place)
    return len(session.execute(places).all())


def _of_tenant(table: Table, tenant_id: UUID) -> ColumnElement[bool]:
    return table.c.job_id.in_(select(Job.id).where(Job.tenant_id == tenant_id))
