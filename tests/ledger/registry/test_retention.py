"""Which weights and other files of a model may be deleted. Those of a version that awaits approval come with the approval."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger import metrics
from ledger.errors import ErasedMeanwhile, ModelBusy, VersionRefused
from ledger.jobs.approvals import approve, refuse, set_approvals
from ledger.jobs.claims import Rewritten, RowsLeft, claim
from ledger.registry.models import (
    CHECKPOINTS,
    find_model,
    get_model,
    lock_model,
    reserve_model,
    set_checkpoints,
)
from ledger.registry.references import ReferenceFile, find_references, list_erased, register_references
from ledger.registry.retention import list_outdated, list_superseded, mark_deleted, mark_purged, needed_files
from ledger.registry.versions import promote, register_version
from ledger.sample_key import check_sample_key, rotate_sample_key
from ledger.states import JobState, Reason
from tests.ledger.conftest import KEY, LEASE, digests

MONTH = timedelta(days=30)
BEFORE = ReferenceFile(sha256="ab" * 32, path="before")
AFTER = ReferenceFile(sha256="cd" * 32, path="after")
OTHER = ReferenceFile(sha256="ef" * 32, path="other")
SLICES = [{"slice": number, "path": f"slice-{number}", "sha256": "ab" * 32} for number in (0, 1)]
LEFT = [{"slice": 0, "path": "slice-0", "sha256": "ab" * 32}, {"slice": 1, "path": "new-1", "sha256": "ab" * 32}]


def superseded(world, *, older_than=MONTH):
    with world.sessions() as session:
        return [(version.model, version.number) for version in list_superseded(session, older_than=older_than)]


def age(world, days=40):
    """Let every version be that much older."""
    with world.sessions.begin() as session:
        session.execute(
            text("UPDATE model_versions SET created_at = created_at - make_interval(days => :d)"), {"d": days}
        )


def purge(world, *, older_than=MONTH):
    with world.sessions.begin() as session:
        chosen = [version.version_id for version in list_superseded(session, older_than=older_than)]
        return mark_purged(session, chosen, older_than=older_than)


def knowing(world):
    """How many stored versions of each model know erased people."""
    with world.sessions() as session:
        return {model: count for _, model, _, count in metrics.versions(session)}


def register_file(world, file, **more):
    with world.sessions.begin() as session:
        register_references(session, tenant_id=world.tenant_id, model="small", file=file, details={}, **more)


def set_slices(world, slices):
    with world.sessions.begin() as session:
        set_checkpoints(lock_model(session, tenant_id=world.tenant_id, name="small"), slices)


def retrain(world, *numbers, checkpoints=()):
    """Register and promote weights that were trained anew on the samples with these numbers."""
    with world.sessions.begin() as session:
        made = register_version(
            session,
            tenant_id=world.tenant_id,
            model="small",
            training=digests(*numbers),
            weights_sha256="12" * 32,
            weights_path="anew.safetensors",
            by="operator",
            checkpoints=checkpoints,
        )
        promote(session, tenant_id=world.tenant_id, model="small", number=made.number, by="operator")


def decide(world, how, job_id):
    with world.sessions.begin() as session:
        how(session, tenant_id=world.tenant_id, job_id=job_id, by="key:dpo")


def files_of_model(world):
    """The model's references, its slices, and which of the files of this test are needed."""
    with world.sessions.begin() as session:
        model = find_model(session, tenant_id=world.tenant_id, name="small")
        ours = {file.path for file in (BEFORE, AFTER, OTHER)} | {entry["path"] for entry in (*SLICES, *LEFT)}
        return find_references(session, model.id), model.details[CHECKPOINTS], needed_files(session) & ours


def references_of_model(world):
    with world.sessions() as session:
        return find_references(session, find_model(session, tenant_id=world.tenant_id, name="small").id)


def outdated(world):
    with world.sessions.begin() as session:
        return [name for names in list_outdated(session).values() for name in names]


def rewrite(file, rehash):
    """Stands for the file under another key."""
    return replace(file, path=f"{file.path}, rotated", sha256=file.sha256[::-1])


@pytest.fixture
def waiting(world):
    """A job that has made a version, with references and a slice of a training that know nothing of its sample."""
    register_file(world, BEFORE)
    set_slices(world, SLICES)
    with world.sessions.begin() as session:
        check_sample_key(session, KEY)
        set_approvals(session, tenant_id=world.tenant_id, model="small", by="key:admin", versions=True)
    claim = world.submit_and_claim(1)
    world.finish(claim, references=AFTER, checkpoints=LEFT)
    return claim.job_id


def test_a_stored_version_that_knows_erased_people_counts_until_it_is_purged(world):
    assert knowing(world) == {"small": 0, "large": 0}
    world.finish(world.submit_and_claim(1))
    assert knowing(world) == {"small": 1, "large": 0}
    world.finish(world.submit_and_claim(2))
    assert knowing(world) == {"small": 2, "large": 0}
    age(world)
    purge(world)
    assert knowing(world) == {"small": 0, "large": 0}


def test_what_a_later_version_follows_may_go_once_it_is_old_enough(world):
    world.finish(world.submit_and_claim(1))
    assert superseded(world) == []

    age(world)
    assert superseded(world) == [("small", 1)]
    assert superseded(world, older_than=timedelta(days=50)) == []


def test_the_served_version_stays_and_so_does_one_that_an_open_job_began_with(world):
    age(world)
    assert superseded(world, older_than=timedelta(0)) == []

    world.finish(world.submit_and_claim(1))
    claim = world.submit_and_claim(2)
    age(world)
    with world.sessions.begin() as session:  # as if the model had been rolled forward while the job runs
        first = "(SELECT id FROM model_versions WHERE number = 1 AND model_id = jobs.model_id)"
        session.execute(text(f"UPDATE jobs SET base_version_id = {first} WHERE id = :job"), {"job": claim.job_id})
    assert superseded(world) == []


def test_a_file_that_another_version_needs_is_not_given_up(world):
    world.finish(world.submit_and_claim(1))
    age(world)
    with world.sessions() as session:
        shared = needed_files(session)

    gone = purge(world)

    with world.sessions() as session:
        assert not set(gone) & needed_files(session)
        assert set(gone) | needed_files(session) == shared
    assert superseded(world) == []
    assert purge(world) == []


def test_weights_after_slices_are_kept_as_long_as_the_model_lists_them(world):
    for entries in ([{"slice": 0, "path": "zero.safetensors"}, {"slice": 1, "path": "one.safetensors"}], [], None):
        claim = world.submit_and_claim(1 if entries else 2 if entries is not None else 3)
        world.finish(claim, checkpoints=entries)
        with world.sessions() as session:
            kept = {"zero.safetensors", "one.safetensors"} & needed_files(session)
            assert kept == {entry["path"] for entry in entries or ()}
            assert get_model(session, tenant_id=world.tenant_id, name="small").details["training_seconds"] == 12.5


def test_a_purged_version_cannot_be_served_again(world):
    world.finish(world.submit_and_claim(1))
    age(world)
    purge(world)

    with world.sessions.begin() as session, pytest.raises(VersionRefused):
        promote(session, tenant_id=world.tenant_id, model="small", number=1, by="test")


def test_while_a_version_waits_the_model_has_its_own_files_and_those_to_come_are_kept(world, waiting):
    assert files_of_model(world) == (BEFORE, SLICES, {"before", "after", "slice-0", "slice-1", "new-1"})
    assert outdated(world) == []


def test_a_refused_version_leaves_the_files_of_the_model(world, waiting):
    decide(world, refuse, waiting)
    assert files_of_model(world) == (BEFORE, SLICES, {"before", "slice-0", "slice-1"})
    assert outdated(world) == []


def test_an_approved_version_brings_its_files_and_those_that_know_the_erased_are_to_be_deleted(world, waiting):
    decide(world, approve, waiting)
    assert files_of_model(world) == (AFTER, LEFT, {"after", "slice-0", "new-1"})
    assert outdated(world) == ["before", "slice-1"]
    with world.sessions.begin() as session:
        mark_deleted(session, list_outdated(session))
    assert outdated(world) == []


def test_slices_that_came_in_between_stay(world, waiting):
    set_slices(world, SLICES[:1])
    decide(world, approve, waiting)
    assert files_of_model(world)[:2] == (AFTER, SLICES[:1])


def test_a_version_that_needs_no_approval_brings_its_files_at_once_and_says_what_is_to_be_deleted(world):
    """In the transaction that publishes it, so that a crash right after it leaves nothing behind."""
    register_file(world, BEFORE)
    world.finish(world.submit_and_claim(1), references=AFTER)
    assert references_of_model(world) == AFTER
    assert outdated(world) == ["before"]


def test_a_new_training_without_slices_has_none_and_those_of_the_one_before_are_to_be_deleted(world):
    set_slices(world, SLICES)
    retrain(world, *range(80))
    assert files_of_model(world) == (None, [], set())
    assert outdated(world) == ["slice-0", "slice-1"]


def test_a_job_without_a_run_takes_off_what_knows_its_samples(world):
    """The served version was trained without them. The slices were kept by a job, of which the ledger does not know what it saw."""
    retrain(world, *range(2, 80))
    set_slices(world, SLICES)
    register_file(world, BEFORE)
    job_id = world.submit(1).targets[0].job.id
    with pytest.raises(RowsLeft) as left, world.sessions.begin() as session:
        claim(session, job_id, worker="worker", lease=LEASE)
    assert (left.value.file, left.value.samples) == (BEFORE, frozenset(digests(1)))
    assert world.job(job_id).state is JobState.QUEUED
    register_file(world, OTHER)
    stale = Rewritten(before=BEFORE, after=AFTER, without=left.value.samples)
    with pytest.raises(RowsLeft), world.sessions.begin() as session:
        claim(session, job_id, worker="worker", lease=LEASE, rewritten=stale)
    with world.sessions.begin() as session:
        rewritten = replace(stale, before=OTHER)
        assert claim(session, job_id, worker="worker", lease=LEASE, rewritten=rewritten) is None
    assert world.job(job_id).reason is Reason.SUPERSEDED
    assert files_of_model(world) == (AFTER, [], {"after"})
    assert outdated(world) == ["other", "slice-0", "slice-1"]


def test_a_job_without_a_run_keeps_the_slices_of_a_training_without_its_samples(world):
    retrain(world, *range(2, 80), checkpoints=SLICES)
    kept = [{**entry, "version": 2} for entry in SLICES]
    for number, left in ((1, kept), (85, kept)):
        if number == 85:  # which only a version that was never served was trained on
            with world.sessions.begin() as session:
                register_version(
                    session,
                    tenant_id=world.tenant_id,
                    model="small",
                    training=digests(*range(2, 90)),
                    weights_sha256="34" * 32,
                    weights_path="later.safetensors",
                    by="operator",
                    checkpoints=SLICES,
                )
            left = []
        job_id = world.submit(number).targets[0].job.id
        assert world.claim(job_id) is None
        assert world.job(job_id).reason is Reason.SUPERSEDED
        assert files_of_model(world)[1] == left


def test_what_became_outdated_while_files_were_deleted_is_listed_until_it_is_deleted_too(world):
    register_file(world, BEFORE)
    retrain(world, *range(3, 80))

    def supersede(number, before, after):
        job_id = world.submit(number).targets[0].job.id
        without = frozenset(digests(number))
        with world.sessions.begin() as session:
            claim(
                session,
                job_id,
                worker="worker",
                lease=LEASE,
                rewritten=Rewritten(before=before, after=after, without=without),
            )

    supersede(1, BEFORE, AFTER)
    with world.sessions.begin() as session:
        deleted = list_outdated(session)
    supersede(2, AFTER, None)
    with world.sessions.begin() as session:
        mark_deleted(session, deleted)
    assert references_of_model(world) is None
    assert outdated(world) == ["after", "before"]


def test_references_that_cannot_be_read_are_given_up_with_the_version(world):
    register_file(world, BEFORE)
    world.finish(world.submit_and_claim(1))
    assert references_of_model(world) is None
    assert outdated(world) == ["before"]


def test_references_are_registered_only_while_no_job_holds_the_model(world):
    """A job that runs, or whose version waits, erases samples that the new file still has rows of."""
    claim = world.submit_and_claim(1)
    with pytest.raises(ModelBusy):
        register_file(world, BEFORE)
    world.finish(claim)
    with pytest.raises(ErasedMeanwhile):
        register_file(world, BEFORE)
    with world.sessions() as session:
        erased = list_erased(session, tenant_id=world.tenant_id, model="small")
    register_file(world, BEFORE, erased=erased)


def test_no_job_of_a_reserved_model_is_claimed_and_one_that_holds_it_goes_on(world):
    held, waiting = world.submit_and_claim(1), world.submit(2).targets[0].job.id
    other = world.submit(3, models=["large"]).targets[0].job.id
    with world.sessions.begin() as session:
        reserve_model(session, find_model(session, tenant_id=world.tenant_id, name="small").id)
        world.finish(held)
        assert world.claim(waiting) is None
        assert world.claim(other) is not None
    assert world.claim(waiting) is not None


def test_references_are_not_registered_while_a_version_waits(world, waiting):
    with pytest.raises(ModelBusy):
        register_file(world, OTHER)


def test_a_rotation_of_the_key_rewrites_the_references_to_come(world, waiting):
    with world.sessions.begin() as session:
        rotated = rotate_sample_key(session, old=KEY, new=KEY + bytes(range(32)), rewrite=rewrite)
    assert (rotated.files, rotated.unreadable) == (2, ())
    decide(world, approve, waiting)
    assert references_of_model(world) == rewrite(AFTER, None)


def test_an_approval_during_a_rotation_of_the_key_waits_for_the_references_of_the_new_key(world, waiting):
    """It must not go on with what it read before: the model would keep references with rows of the erased samples."""
    with ThreadPoolExecutor(1) as pool:
        with world.sessions.begin() as session:
            rotate_sample_key(session, old=KEY, new=KEY + bytes(range(32)), rewrite=rewrite)
            approving = pool.submit(decide, world, approve, waiting)
            world.await_lock("the approval to wait for the rotation")
        approving.result()
    assert references_of_model(world) == rewrite(AFTER, None)
