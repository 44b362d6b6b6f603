from uuid import uuid4

import pytest

from ledger.errors import NotInReport, UnknownReport
from ledger.registry.access import ensure_tenant
from ledger.transparency.commitments import commit_samples, prove_inclusion, unlink_sample
from tests.ledger.conftest import digests, publish
from verifier.commitment import check_inclusion
from verifier.errors import Mismatch


def samples(*numbers):
    return [(digests(number)[0], f"person-{number}") for number in numbers]


def published(world, *numbers):
    """A published job that has forgotten these samples: its commitment and its report's id."""
    commitment = commit_samples("digits", samples(*numbers))
    claim = world.submit_and_claim(*numbers)
    world.verify(claim)
    with world.sessions.begin() as session:
        return commitment, publish(session, claim, commitment=commitment).report_id


def prove(world, report_id, number, **changes):
    (digest,) = digests(number)
    given = {"tenant_id": world.tenant_id, "dataset": "digits", "sample_id": f"person-{number}", "digest": digest}
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


def test_the_same_samples_twice_give_unlike_roots():
    assert commit_samples("digits", samples(1, 2)).root != commit_samples("digits", samples(1, 2)).root


def test_the_leaves_stand_in_an_order_that_says_nothing_about_the_samples():
    commitment = commit_samples("digits", samples(*range(50)))
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
    commitment = commit_samples("digits", samples(1))
    assert commitment.root == commitment.leaves[0].hash.hex()
