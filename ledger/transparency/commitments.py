"""Commitments to the samples that a job has erased: a Merkle root over salted leaves. One sample can be shown without the others.

The leaves are sorted by their hashes, so that their order says nothing about the samples.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from ledger.errors import NotInReport, UnknownReport
from ledger.tables import Job, Report
from ledger.tables.samples import commitment_leaves
from ledger.transparency.merkle import inclusion_path
from verifier.commitment import SALT_BYTES, Inclusion, sample_leaf
from verifier.merkle import root_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """The leaf of a sample: its hash, the sample's digest and the salt, 32 bytes each."""

    hash: bytes
    digest: bytes
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """The leaves in their order, and their root (SHA-256 hex)."""

    root: str
    leaves: tuple[Leaf, ...]


def commit_samples(dataset: str, samples: Iterable[tuple[bytes, str]]) -> Commitment:
    """Commit to samples, each given by its digest and its ID. The ID goes into the leaf's hash and is not stored."""
    leaves = []
    for digest, sample_id in samples:
        salt = secrets.token_bytes(SALT_BYTES)
        leaves.append(Leaf(hash=sample_leaf(salt, dataset, sample_id), digest=digest, salt=salt))
    leaves.sort(key=lambda leaf: leaf.hash)
    return Commitment(root=root_hash([leaf.hash for leaf in leaves]).hex(), leaves=tuple(leaves))


def record_commitment(session: Session, job_id: UUID, commitment: Commitment) -> None:
    """Store a job's leaves, in the caller's transaction. Proofs of inclusion are made from them."""
    rows = [
        {"job_id": job_id, "place": place, "leaf": leaf.hash, "digest": leaf.digest, "salt": leaf.salt}
        for place, leaf in enumerate(commitment.leaves)
    ]
    if rows:
        session.execute(insert(commitment_leaves), rows)


def prove_inclusion(
    session: Session, *, tenant_id: UUID, report_id: UUID, dataset: str, sample_id: str, digest: bytes
) -> Inclusion:
    """Prove that a sample is among those of a report. Raises UnknownReport, and NotInReport, which does not name the ID."""
    job_id = session.scalar(select(Report.job_id).where(Report.id == report_id, Report.tenant_id == tenant_id))
    if job_id is None:
        raise UnknownReport(f"there is no report {report_id}")
    mine = select(commitment_leaves.c.place, commitment_leaves.c.salt).where(
        commitment_leaves.c.job_id == job_id, commitment_leaves.c.digest == digest
    )
    found = session.execute(mine).one_or_none()
    if found is None:
        raise NotInReport("the sample is not among those of this report, or the link to it was erased")
    place, salt = found
    every = (
        select(commitment_leaves.c.leaf).where(commitment_leaves.c.job_id == job_id).order_by(commitment_leaves.c.place)
    )
    leaves = list(session.scalars(every))
    return Inclusion(
        report_id=str(report_id),
        dataset=dataset,
        sample_id=sample_id,
        salt=salt,
        index=place,
        size=len(leaves),
        path=tuple(inclusion_path(leaves, place)),
    )


def unlink_sample(session: Session, *, tenant_id: UUID, digest: bytes) -> int:
    """Erase the link between a tenant's sample and its leaves, and count these. Every root and every other proof stays valid."""
    mine = select(Job.id).where(Job.tenant_id == tenant_id)
    erased = update(commitment_leaves).where(commitment_leaves.c.digest == digest, commitment_leaves.c.job_id.in_(mine))
    places = erased.values(digest=None, salt=None).returning(commitment_leaves.c.place)
    return len(session.execute(places).all())
