"""The log in the database: whole, in the order of the commits, and only ever longer."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger.errors import InvalidPlace, UnknownEntry
from ledger.registry.access import ensure_tenant
from ledger.registry.models import get_model
from ledger.requests.cancellation import dismiss_request
from ledger.states import Reason
from ledger.transparency.log import (
    LogKind,
    SigningState,
    append,
    erase_opening,
    find_leaf,
    list_leaves,
    newest_checkpoint,
    place_leaves,
    prove_entry,
    prove_growth,
    prove_leaf,
    sign_checkpoint,
    signing_state,
    tree_head,
)
from ledger.transparency.signing_keys import register_signing_key
from tests.fixtures.waiting import PATIENCE
from tests.ledger.conftest import KEY
from tests.report.recorded import stored
from tests.verifier.conftest import make_signer
from verifier.errors import Mismatch
from verifier.keys import TrustedKey
from verifier.log import (
    TreeHead,
    check_consistency,
    check_entry,
    check_leaves,
    content_hmac,
    read_log_checkpoint,
    read_log_proof,
    sign_note,
)
from verifier.merkle import included, leaf_hash

SIGNER = make_signer()
KEYS = [TrustedKey(key_id=SIGNER.key_id, public=SIGNER.private.public_key())]


def sign(checkpoint: TreeHead) -> str:
    private = SIGNER.private
    return sign_note(checkpoint.text, name=checkpoint.origin, public=private.public_key(), sign=private.sign)


def add(world, count=1):
    """Append that many entries, a transaction each; gives what they are about."""
    subjects = [uuid4() for _ in range(count)]
    for subject in subjects:
        with world.sessions.begin() as session:
            append(
                session, LogKind.REQUEST, tenant_id=world.tenant_id, subject_id=subject, content={"about": str(subject)}
            )
    return subjects


def tree(world):
    """How far the log is once every entry has its place."""
    with world.sessions.begin() as session:
        place_leaves(session)
        return tree_head(session)


def checkpoint(world):
    with world.sessions.begin() as session:
        sign_checkpoint(session, sign)
        return read_log_checkpoint(newest_checkpoint(session).note.encode(), keys=KEYS)


def prove(world, subject, kind=LogKind.REQUEST):
    with world.sessions() as session:
        return prove_entry(session, kind, tenant_id=world.tenant_id, subject_id=subject, sample_key=KEY)


def test_the_root_is_that_of_all_leaves_at_every_size(world):
    start = tree(world).size  # the world's models are promotions
    for _ in range(9):
        add(world)
        tree(world)
        with world.sessions() as session:
            check_leaves(tree_head(session), list_leaves(session, start=0, limit=100))
    assert tree(world).size == start + 9


def test_every_leaf_of_every_tree_and_every_growth_can_be_proven(world):
    trees = [tree(world)]
    for _ in range(11):
        add(world)
        trees.append(tree(world))
    with world.sessions() as session:
        leaves = [leaf_hash(leaf) for leaf in list_leaves(session, start=0, limit=100)]
        for place, newer in enumerate(trees):
            for index in range(newer.size):
                path = prove_leaf(session, index=index, size=newer.size)
                assert included(leaves[index], index=index, size=newer.size, path=path, root=newer.root)
                assert find_leaf(session, leaves[index]) == index
            for older in trees[: place + 1]:
                check_consistency(older, newer, prove_growth(session, first=older.size, second=newer.size))


def test_trees_and_leaves_that_are_not_there_cannot_be_proven(world):
    size = tree(world).size
    with world.sessions() as session:
        for index, of in ((size, size), (0, size + 1), (-1, size)):
            with pytest.raises(InvalidPlace):
                prove_leaf(session, index=index, size=of)
        with pytest.raises(InvalidPlace):
            prove_growth(session, first=size, second=size + 1)
        with pytest.raises(InvalidPlace):
            prove_growth(session, first=size, second=size - 1)
        with pytest.raises(UnknownEntry):
            find_leaf(session, bytes(32))


def test_appending_waits_for_nobody_and_what_is_not_committed_has_no_place(world):
    """A place is given to what is there; an entry that is still open gets one later, and one that is rolled back none."""
    before = tree(world).size
    with world.sessions() as slow, world.sessions() as undone:
        for session in (slow, undone):
            append(session, LogKind.RESULT, tenant_id=world.tenant_id, subject_id=uuid4(), content={})
        add(world, 3)
        assert tree(world).size == before + 3
        undone.rollback()
        slow.commit()
    assert tree(world).size == before + 4
    with world.sessions() as session:
        check_leaves(tree_head(session), list_leaves(session, start=0, limit=100))


def test_places_are_given_by_one_at_a_time_and_none_twice(world):
    before = tree(world).size

    def work():
        for _ in range(10):
            add(world, 2)
            tree(world)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert tree(world).size == before + 80
    with world.sessions() as session:
        check_leaves(tree_head(session), list_leaves(session, start=0, limit=1000))


def test_a_request_its_result_and_the_promotion_are_each_logged_with_what_they_record(world):
    request = world.submit(1, 2)
    claim = world.claim(request.targets[0].job.id)
    report_id = world.finish(claim)
    with world.sessions() as session:
        version_id = get_model(session, tenant_id=world.tenant_id, name="small").version.id
    checkpoint(world)
    asked = check_entry(prove(world, request.id), keys=KEYS)
    result = check_entry(prove(world, claim.job_id, LogKind.RESULT), keys=KEYS)
    promotion = check_entry(prove(world, version_id, LogKind.PROMOTION), keys=KEYS)
    assert [entry.kind for entry in (asked, result, promotion)] == ["request", "result", "promotion"]
    assert (asked.content["request"], asked.content["accepted"]) == (str(request.id), 2)
    assert result.content["state"] == "completed"
    assert result.content["requests"] == [str(request.id)]
    assert result.content["report"]["id"] == str(report_id)
    assert promotion.content == {
        "model": "small",
        "version": 2,
        "weights_sha256": stored("verified")["model"]["weights_after_sha256"],
        "job": str(claim.job_id),
    }


def test_a_failure_and_a_cancellation_are_results_too(world):
    failed = world.submit_and_claim(1)
    world.fail(failed, Reason.WEIGHTS_DAMAGED)
    checkpoint(world)
    entry = check_entry(prove(world, failed.job_id, LogKind.RESULT), keys=KEYS)
    assert (entry.content["state"], entry.content["reason"], entry.content["report"]) == (
        "failed",
        "weights_damaged",
        None,
    )


def test_what_is_rolled_back_is_not_in_the_log(world):
    before = tree(world)
    claim = world.submit_and_claim(1)
    with world.sessions() as session:
        append(session, LogKind.RESULT, tenant_id=world.tenant_id, subject_id=claim.job_id, content={})
        session.rollback()
    assert tree(world).size == before.size + 1  # the request


def test_nobody_can_read_from_a_leaf_whom_it_is_about(world):
    (subject,) = add(world)
    tree(world)
    with world.sessions() as session:
        leaf = json.loads(list_leaves(session, start=0, limit=100)[-1])
    assert set(leaf) == {"kind", "at", "commitment"}
    assert str(subject) not in json.dumps(leaf)


def test_erasing_the_opening_erases_the_person_and_not_the_log(world):
    gone, stays = add(world, 2)
    older = checkpoint(world)
    kept = prove(world, stays)
    with world.sessions.begin() as session:
        assert erase_opening(session, tenant_id=world.tenant_id, subject_id=gone) == 1
    with pytest.raises(UnknownEntry):
        prove(world, gone)
    check_entry(prove(world, stays), keys=KEYS)
    assert prove(world, stays) == kept
    add(world)
    newer = checkpoint(world)
    with world.sessions() as session:
        check_leaves(newer, list_leaves(session, start=0, limit=100))
        check_consistency(older, newer, prove_growth(session, first=older.size, second=newer.size))


def test_the_same_content_twice_has_unlike_commitments():
    assert content_hmac(b"a" * 32, "{}") != content_hmac(b"b" * 32, "{}")


def test_an_entry_that_says_something_else_is_refused(world):
    (subject,) = add(world)
    checkpoint(world)
    proof = read_log_proof(json.dumps(prove(world, subject).to_json()).encode())
    other = dataclasses.replace(proof, content=json.dumps({"about": "somebody else"}))
    with pytest.raises(Mismatch):
        check_entry(other, keys=KEYS)
    forged = json.dumps({**json.loads(proof.leaf), "commitment": content_hmac(proof.key, other.content)}).encode()
    with pytest.raises(Mismatch):
        check_entry(dataclasses.replace(other, leaf=forged), keys=KEYS)


def test_another_tenant_sees_no_entry(world):
    (subject,) = add(world)
    checkpoint(world)
    with world.sessions.begin() as session:
        bank = ensure_tenant(session, "bank")
    with world.sessions() as session, pytest.raises(UnknownEntry):
        prove_entry(session, LogKind.REQUEST, tenant_id=bank, subject_id=subject, sample_key=KEY)


def test_a_checkpoint_is_signed_once_a_size_and_an_entry_beyond_it_is_not_proven_yet(world):
    checkpoint(world)
    with world.sessions.begin() as session:
        assert not sign_checkpoint(session, sign)
    (subject,) = add(world)
    with pytest.raises(UnknownEntry):
        prove(world, subject)
    checkpoint(world)
    assert prove(world, subject).index == tree(world).size - 1


def test_of_two_that_sign_the_same_tree_at_once_one_has_signed_it(world):
    tree(world)

    def sign_too():
        with world.sessions.begin() as session:
            return sign_checkpoint(session, sign)

    with ThreadPoolExecutor(1) as other, world.sessions.begin() as session:
        assert sign_checkpoint(session, sign) is not None
        second = other.submit(sign_too)
        world.await_lock("the second to wait")
        session.commit()
        assert second.result(PATIENCE) is None


def test_entries_wait_for_a_signature_from_when_they_were_written_once_there_is_a_key(world):
    def state():
        with world.sessions() as session:
            return signing_state(session)

    assert state() == SigningState(signed_at=None, waiting_since=None)
    with world.sessions.begin() as session:
        register_signing_key(session, key_id=SIGNER.key_id, public_key="PEM")
    first = state().waiting_since
    assert first is not None
    tree(world)  # a place in the tree is not a signature
    assert state().waiting_since == first
    checkpoint(world)
    assert state().waiting_since is None
    signed_at = state().signed_at
    assert signed_at > first
    add(world)
    later = state()
    assert (later.signed_at, later.waiting_since > signed_at) == (signed_at, True)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log_leaves SET leaf = '' WHERE index = 0",
        "UPDATE log_leaves SET index = 99 WHERE index = 0",
        "UPDATE log_leaves SET index = NULL WHERE index = 0",
        "DELETE FROM log_leaves WHERE index = 0",
        "UPDATE log_nodes SET hash = '' WHERE level = 0",
        "DELETE FROM log_nodes",
        "UPDATE log_head SET size = size",
        "UPDATE log_head SET size = 0",
        "UPDATE log_head SET origin = 'mine', size = size + 1",
        "DELETE FROM log_head",
        "UPDATE log_openings SET content = '{}'",
        "UPDATE log_checkpoints SET note = ''",
        "DELETE FROM log_checkpoints",
        "TRUNCATE log_nodes",
        "TRUNCATE log_leaves CASCADE",
        "TRUNCATE log_head",
        "TRUNCATE log_checkpoints",
    ],
)
def test_the_database_refuses_to_change_or_shorten_the_log(world, change):
    add(world)
    checkpoint(world)
    with world.sessions() as session, pytest.raises(IntegrityError, match="append-only"):
        session.execute(text(change))


def test_a_dismissal_is_in_the_log_and_does_not_hide_the_receipt(world):
    request = world.submit(1)
    world.fail(world.claim(request.targets[0].job.id), Reason.UNEXPECTED)
    with world.sessions.begin() as session:
        dismiss_request(session, tenant_id=world.tenant_id, request_id=request.id, reason="Kept by law.", by="key:dpo")
    checkpoint(world)
    dismissal = check_entry(prove(world, request.id, LogKind.DISMISSAL), keys=KEYS)
    assert (dismissal.kind, dismissal.content["by"], dismissal.content["reason"]) == (
        "dismissal",
        "key:dpo",
        "Kept by law.",
    )
    assert check_entry(prove(world, request.id), keys=KEYS).kind == "request"
