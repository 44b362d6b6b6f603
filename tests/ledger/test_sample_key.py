"""The sample key: the ledger knows which one it is under, and a rotation loses nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import LargeBinary, delete, func, select, text

from ledger import sample_key
from ledger.errors import ModelBusy, NoSamplesMatch, WrongSampleKey
from ledger.registry.references import ReferenceFile, find_references, register_references
from ledger.requests import do_not_train, uploads
from ledger.requests.idempotency import Idempotency
from ledger.resources import SampleCounts
from ledger.sample_ids import commit_to_subject, key_fingerprint, rehash, sample_digest, subject_digest
from ledger.sample_key import check_sample_key, hashed_tables, rotate_sample_key
from ledger.tables import Base, IdempotencyKey, Model, Upload
from ledger.tables.samples import SEALED_BESIDE
from ledger.transparency.commitments import commit_samples, commit_subjects, prove_inclusion, prove_subject
from ledger.transparency.log import LogKind, prove_entry, sign_checkpoint
from tests.fixtures.postgresql import stored_rows
from tests.ledger.conftest import KEY, assign, committed, digests, listed_names, nothing_written, people
from tests.verifier.conftest import make_signer
from verifier.commitment import check_inclusion, check_subject_inclusion
from verifier.merkle import root_hash

LATER = b"\x01" * 32
LEAVES = ("manifest_leaves", "subject_leaves")
NEW = KEY + LATER

OTHER_BYTES = {
    "api_keys.secret_sha256",
    "managed_requests.reply",
    "log_leaves.hash",
    "log_leaves.leaf",
    "log_nodes.hash",
    "log_openings.key",
} | {f"{table}.leaf" for table in ("manifest_leaves", "subject_leaves")}
"""Columns of bytes that are no keyed hash of a sample or a person, and not sealed beside one."""


@pytest.fixture
def used(world):
    """A world in which every table of hashes has rows. ann: digits 1 and 2, erased; the upload is of the digits 5 and 6."""
    with world.sessions.begin() as session:
        check_sample_key(session, KEY)
        assign(session, world.tenant_id, "digits", ann=digests(1, 2, 90), bob=digests(3))
        file = ReferenceFile(sha256="ab" * 32, path="old")
        for name in ("small", "large"):
            register_references(session, tenant_id=world.tenant_id, model=name, file=file, details={})
        with uploads.receive_digests(session) as copy:
            uploads.send_digests(copy, [(one, 1) for one in digests(5, 6)])
        uploads.store_upload(session, tenant_id=world.tenant_id, dataset="digits")
    with world.sessions.begin() as session:
        with uploads.receive_digests(session) as copy:
            uploads.send_subjects(copy, [(*people("bob"), 1, commit_to_subject(KEY, "bob"))])
        uploads.store_upload(session, tenant_id=world.tenant_id, dataset=None)
    given = Idempotency(tenant_id=world.tenant_id, caller="portal", key="k", body_sha256="cd" * 32)
    asked = ask(world, "ann", key=KEY, idempotency=given)
    claim = world.claim(asked.targets[0].job.id)
    names = {digest: f"person-{number}" for number, digest in enumerate(digests(*range(100)))}
    commitment = commit_samples("digits", [names[one] for one in claim.samples.forget], key=KEY)
    named = commit_subjects(claim.people, key=KEY)
    world.finish(claim, commitment=commitment, people=named.seal(KEY), references=file)
    with world.sessions.begin() as session:
        session.execute(
            text("INSERT INTO version_samples SELECT id, :one FROM model_versions LIMIT 1"), {"one": digests(7)[0]}
        )
    return world


def ask(world, *names, key, numbers=(), **more):
    return world.submit(
        subjects=committed(*names, key=key),
        digests=[sample_digest(key, "digits", f"person-{number}") for number in numbers],
        **more,
    )


def rotate(world, rewrite=None, old=KEY, new=NEW):
    with world.sessions.begin() as session:
        return rotate_sample_key(
            session, old=old, new=new, rewrite=rewrite or (lambda file, _: replace(file, path="new"))
        )


def contents(world):
    with world.sessions() as session:
        return {table.name: list(map(tuple, session.execute(select(table)).all())) for table in hashed_tables()}


def test_a_column_of_bytes_is_a_hash_that_a_rotation_knows_or_none():
    every = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary) and SEALED_BESIDE not in column.info
    }
    hashes = {f"{table.name}.{name}" for table in hashed_tables() for name in ("digest", "subject") if name in table.c}
    assert every - OTHER_BYTES == hashes


def test_a_rotation_hashes_every_row_on_and_changes_nothing_else(used):
    before = contents(used)
    found = rotate(used)
    after = contents(used)
    for name, rows in before.items():
        columns = Base.metadata.tables[name].columns
        hashes = [place for place, column in enumerate(columns) if column.name in ("digest", "subject")]
        sealed = {place for place, column in enumerate(columns) if column.name in ("salt", "commitment", "sealed")}

        def kept(row, sealed=sealed):
            return tuple(value for place, value in enumerate(row) if place not in sealed)

        hashed = [
            tuple(rehash(one, LATER) if place in hashes else one for place, one in enumerate(row)) for row in rows
        ]
        assert sorted(map(kept, after[name])) == sorted(map(kept, hashed)), name
        for place in sealed:
            assert not {row[place] for row in rows if row[place]} & {row[place] for row in after[name]} - {True}
    assert 0 not in map(len, before.values())
    assert (found.rows, found.files, found.unreadable) == (sum(map(len, before.values())), 2, ())


def test_what_was_known_before_a_rotation_is_known_after_it(used):
    """Requests, uploads, do-not-train lists and proofs, with what the new key gives for the same IDs and people."""
    again = [subject_digest(NEW, "ann"), sample_digest(NEW, "digits", "person-2")]
    assert again == [rehash(people("ann")[0], LATER), rehash(digests(2)[0], LATER)]
    rotate(used)
    assert ask(used, "ann", key=NEW).samples == SampleCounts(accepted=0, already_erased=2, not_in_training_set=1)
    assert ask(used, "bob", key=NEW, numbers=(4,)).samples.accepted == 2
    with used.sessions() as session:
        sent = {upload.dataset_id is None: upload.id for upload in session.scalars(select(Upload))}
    assert [ask(used, key=NEW, upload_id=sent[of_people]).samples.accepted for of_people in (False, True)] == [2, 1]
    assert again[0] in listed_names(used, do_not_train.people_of_model, "small")
    assert again[1] in listed_names(used, do_not_train.of_dataset, "digits")
    with used.sessions.begin() as session:
        for upload in session.scalars(select(Upload)).all():
            assert upload.sha256 == uploads.commit_to_upload(session, upload.id)
        body = session.scalars(select(IdempotencyKey.body_sha256)).one()
        assert body == rehash(bytes.fromhex("cd" * 32), LATER).hex()
        report_id = session.scalar(text("SELECT id FROM reports"))
        given = {"tenant_id": used.tenant_id, "report_id": report_id, "key": NEW}
        shown = prove_inclusion(session, **given, dataset="digits", sample_id="person-2", digest=again[1])
        leaves = {name: session.scalars(text(f"SELECT leaf FROM {name} ORDER BY place")).all() for name in LEAVES}
        check_inclusion(shown, root=root_hash(leaves["manifest_leaves"]), size=2)
        person = prove_subject(session, **given, subject="ann")
        check_subject_inclusion(person, root=root_hash(leaves["subject_leaves"]), size=1)


def test_what_the_log_says_of_a_request_is_sealed_by_each_rotation_and_proves_the_same(used):
    with used.sessions.begin() as session:
        sign_checkpoint(session, make_signer().checkpoint)
        request_id = session.scalar(text("SELECT id FROM unlearn_requests"))

    def prove(key):
        with used.sessions() as session:
            given = {"tenant_id": used.tenant_id, "subject_id": request_id, "sample_key": key}
            return prove_entry(session, LogKind.REQUEST, **given)

    first = prove(KEY)
    said = json.loads(first.content)
    hidden = [first.key.hex(), said["samples_sha256"], said["subjects_sha256"]]
    key = KEY
    for later in (LATER, b"\x02" * 32):
        before, key = key, key + later
        rotate(used, old=before, new=key)
        with used.sessions() as session:
            rows = str(stored_rows(session)["log_openings"])
        assert [one for one in hidden if one in rows] == []
        assert prove(key) == first
        with pytest.raises(WrongSampleKey):
            prove(before)


def test_the_next_rotation_goes_on_from_the_last(used):
    rotate(used)
    later = NEW + b"\x02" * 32
    rotate(used, old=NEW, new=later)
    assert ask(used, "ann", key=later).samples.already_erased == 2
    assert rotate(used, old=NEW, new=later) is None
    with pytest.raises(ValueError, match="one more"):
        rotate(used, old=KEY, new=later)


def test_only_the_ledgers_own_key_is_taken_and_an_empty_ledger_takes_any(world, sessions):
    with world.sessions.begin() as session:
        check_sample_key(session, KEY)
    with nothing_written(world):
        for wrong in (LATER, NEW):
            with world.sessions.begin() as session, pytest.raises(WrongSampleKey):
                check_sample_key(session, wrong)
        with pytest.raises(WrongSampleKey):
            rotate(world, old=LATER, new=LATER + KEY)
    with world.sessions.begin() as session:
        session.execute(text("TRUNCATE samples"))
        check_sample_key(session, LATER)
        assert sample_key.read_fingerprint(session) == key_fingerprint(LATER)


def test_after_the_loss_of_the_key_the_ledger_goes_on_with_another_and_counts_what_it_cannot_match(used):
    with used.sessions.begin() as session:
        found = sample_key.replace_lost_key(session, LATER)
        assert (found.samples, found.erased, found.people) == (100, 2, 1)
    with used.sessions.begin() as session:
        check_sample_key(session, LATER)
    with used.sessions.begin() as session, pytest.raises(WrongSampleKey):
        check_sample_key(session, KEY)
    with pytest.raises(NoSamplesMatch):
        ask(used, "ann", key=LATER)


def test_a_job_that_a_worker_runs_refuses_a_rotation_until_its_lease_has_expired(used):
    job_id = used.submit(10).targets[0].job.id
    used.claim(job_id)
    with nothing_written(used), pytest.raises(ModelBusy, match=str(job_id)):
        rotate(used)
    used.expire_lease(job_id)
    assert rotate(used) is not None
    used.sweep()
    claim = used.claim(job_id)
    assert claim.samples.forget == {sample_digest(NEW, "digits", "person-10")}
    assert sample_digest(NEW, "digits", "person-1") in claim.samples.erased


def test_what_hashes_now_holds_a_rotation_up(world):
    with world.sessions.begin() as session, world.sessions.begin() as other:
        check_sample_key(session, KEY)
        free = select(func.pg_try_advisory_xact_lock(sample_key.ROTATION_LOCK))
        assert other.scalar(free) is False


def test_a_rotation_outlives_an_idempotency_key_that_the_sweep_deletes_meanwhile(used):
    with ThreadPoolExecutor(1) as pool, used.sessions.begin() as session:
        session.execute(delete(IdempotencyKey))
        rotation = pool.submit(rotate, used)
        used.await_lock("the rotation")
    assert rotation.result() is not None
    assert used.count("idempotency_keys") == 0


def test_a_rotation_outlives_an_upload_that_a_worker_deletes_meanwhile(used):
    with ThreadPoolExecutor(1) as pool, used.sessions.begin() as session:
        upload_id = session.scalars(select(Upload.id).with_for_update()).first()
        rotation = pool.submit(rotate, used)
        used.await_lock("the rotation")
        uploads.delete_upload(session, tenant_id=used.tenant_id, upload_id=upload_id)
    assert rotation.result() is not None
    assert used.count("uploaded_manifests") == 1


def test_a_rotation_that_breaks_off_changes_nothing(used):
    def dies(*_):
        raise SystemExit("killed")

    with nothing_written(used):
        for _ in range(2):
            with pytest.raises(SystemExit):
                rotate(used, rewrite=dies)
    assert rotate(used) is not None


def test_a_file_of_references_that_cannot_be_read_is_named(used):
    found = rotate(used, rewrite=lambda *_: None)
    assert (found.files, found.unreadable) == (0, ("large", "small"))
    with used.sessions() as session:
        for model_id in session.scalars(select(Model.id)):
            assert find_references(session, model_id).path == "old"
