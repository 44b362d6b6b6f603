from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from ledger.errors import NotInReport, UnknownReport
from ledger.registry.access import ensure_tenant
from ledger.sample_ids import subject_digest
from ledger.transparency import commitments
from ledger.transparency.commitments import (
    commit_samples,
    commit_subjects,
    prove_inclusion,
    prove_subject,
    unlink_sample,
    unlink_subject,
)
from tests.ledger.conftest import KEY, committed, digests, publish
from verifier.commitment import check_inclusion, check_subject_inclusion, sample_leaf
from verifier.errors import Mismatch


def commit(*numbers):
    return commit_samples("digits", [f"person-{number}" for number in numbers], key=KEY)


def published(world, *numbers):
    """A published job that has forgotten these samples: its commitment and its report's id."""
    commitment = commit(*numbers)
    claim = world.submit_and_claim(*numbers)
    world.verify(claim)
    with world.sessions.begin() as session:
        return commitment, publish(session, claim, commitment=commitment)


def prove(world, report_id, number, **changes):
    (digest,) = digests(number)
    given = {
        "tenant_id": world.tenant_id,
        "dataset": "digits",
        "sample_id": f"person-{number}",
        "digest": digest,
        "key": KEY,
    }
    with world.sessions.begin() as session:
        return prove_inclusion(session, report_id=report_id, **given | changes)


def test_each_sample_can_be_shown_and_no_other_with_its_proof(world):
    commitment, report_id = published(world, 1, 2, 3, 4, 5)
    proofs = {number: prove(world, report_id, number) for number in range(1, 6)}
    for proof in proofs.values():
        check_inclusion(proof, root=bytes.fromhex(commitment.root), size=5)
    with pytest.raises(Mismatch):
        check_inclusion(proofs[1], root=bytes(32), size=5)
    assert len({proof.salt for proof in proofs.values()}) == 5


def test_a_proof_reads_a_large_job_in_chunks(world, monkeypatch):
    """Whatever a job has erased, some rows at a time are in memory."""
    commitment, report_id = published(world, *range(50))
    held, fetch = [], psycopg.ServerCursor.fetchmany

    def fetch_some(cursor, size=0):
        rows = fetch(cursor, size)
        held.append(len(rows))
        return rows

    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", fetch_some)
    monkeypatch.setattr(commitments, "CHUNK", 8)
    check_inclusion(prove(world, report_id, 7), root=bytes.fromhex(commitment.root), size=50)
    assert (sum(held), max(held)) == (50, 8)


def test_the_same_samples_twice_give_unlike_roots():
    assert commit(1, 2).root != commit(1, 2).root


def test_the_leaves_stand_in_an_order_that_says_nothing_about_the_samples():
    commitment = commit(*range(50))
    assert [leaf.hash for leaf in commitment.leaves] == sorted(leaf.hash for leaf in commitment.leaves)


def test_a_sample_of_another_job_or_another_tenant_is_not_shown(world):
    _, report_id = published(world, 1, 2)
    with pytest.raises(NotInReport):
        prove(world, report_id, 3)
    with pytest.raises(UnknownReport):
        prove(world, uuid4(), 1)
    with world.sessions.begin() as session:
        bank = ensure_tenant(session, "bank")
    with pytest.raises(UnknownReport):
        prove(world, report_id, 1, tenant_id=bank)


def test_erasing_the_link_to_one_person_leaves_every_other_proof_good(world):
    commitment, report_id = published(world, 1, 2, 3)
    with world.sessions.begin() as session:
        assert unlink_sample(session, tenant_id=ensure_tenant(session, "bank"), digest=digests(2)[0]) == 0
        assert unlink_sample(session, tenant_id=world.tenant_id, digest=digests(2)[0]) == 1
    with pytest.raises(NotInReport):
        prove(world, report_id, 2)
    check_inclusion(prove(world, report_id, 3), root=bytes.fromhex(commitment.root), size=3)
    assert world.count("manifest_leaves", "digest IS NULL") == 1


def test_the_leaf_of_a_lone_sample_is_the_root():
    commitment = commit(1)
    assert commitment.root == commitment.leaves[0].hash.hex()


def commit_people(*names):
    return commit_subjects(committed(*names), key=KEY)


def test_without_people_and_where_one_has_no_commitment_there_is_none_to_people():
    assert commit_subjects({}, key=KEY) is None
    assert commit_subjects({**committed("ann"), subject_digest(KEY, "bob"): None}, key=KEY) is None


def named(world, *names):
    """A published job that was asked for by these people: its commitment to them and its report's id."""
    people, claim = commit_people(*names), world.submit_and_claim(1)
    world.verify(claim)
    given = {"commitment": commit(1).seal(KEY), "people": people.seal(KEY)}
    with world.sessions.begin() as session:
        return people, publish(session, claim, **given)


def test_each_person_can_be_shown_and_nobody_else_with_the_same_proof(world):
    people, report_id = named(world, "ann", "bob", "cat")
    root = bytes.fromhex(people.root)
    with world.sessions() as session:
        given = {"tenant_id": world.tenant_id, "report_id": report_id, "key": KEY}
        ann, bob = (prove_subject(session, **given, subject=name) for name in ("ann", "bob"))
        for proof in (ann, bob):
            check_subject_inclusion(proof, root=root, size=3)
        for other in (replace(ann, subject="bob"), replace(ann, opening=bob.opening), replace(ann, size=2)):
            with pytest.raises(Mismatch):
                check_subject_inclusion(other, root=root, size=3)
        words = set()
        for stranger in ("eve", "person-1"):
            with pytest.raises(NotInReport) as refused:
                prove_subject(session, **given, subject=stranger)
            words.add(str(refused.value))
        assert len(words) == 1
        with pytest.raises(UnknownReport):
            prove_subject(session, **given | {"tenant_id": uuid4()}, subject="ann")


def test_a_person_is_another_leaf_in_each_report(world):
    assert not {leaf.hash for leaf in commit_people("ann").leaves} & {leaf.hash for leaf in commit_people("ann").leaves}


def test_a_person_is_unlinked_and_every_other_proof_stays_good(world):
    people, report_id = named(world, "ann", "bob")
    with world.sessions.begin() as session:
        assert (
            unlink_subject(session, tenant_id=ensure_tenant(session, "bank"), subject=subject_digest(KEY, "ann")) == 0
        )
        assert unlink_subject(session, tenant_id=world.tenant_id, subject=subject_digest(KEY, "ann")) == 1
    with world.sessions() as session:
        given = {"tenant_id": world.tenant_id, "report_id": report_id, "key": KEY}
        with pytest.raises(NotInReport):
            prove_subject(session, **given, subject="ann")
        check_subject_inclusion(prove_subject(session, **given, subject="bob"), root=bytes.fromhex(people.root), size=2)


def test_who_reads_the_ledger_without_the_key_cannot_try_ids(world):
    """The salt as it is stored gives another leaf; an unsealed one, from before, still gives a proof."""
    _, report_id = named(world, "ann")
    with world.sessions() as session:
        ((leaf, salt),) = session.execute(text("SELECT leaf, salt FROM manifest_leaves")).all()
    assert sample_leaf(salt, "digits", "person-1") != leaf
    assert sample_leaf(prove(world, report_id, 1).salt, "digits", "person-1") == leaf
    assert sample_leaf(prove(world, report_id, 1, key=b"1" * 32).salt, "digits", "person-1") != leaf
