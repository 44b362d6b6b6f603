"""The files of a version that awaits approval: they become the model's with it, and a refusal leaves the model's own."""

from dataclasses import replace

import pytest

from ledger.errors import ErasedMeanwhile, ModelBusy
from ledger.jobs.approvals import approve, refuse, set_approvals
from ledger.registry.held_files import list_outdated, mark_deleted
from ledger.registry.models import CHECKPOINTS, find_model, set_checkpoints
from ledger.registry.references import ReferenceFile, find_references, list_erased, register_references
from ledger.registry.retention import needed_files
from ledger.sample_key import check_sample_key, rotate_sample_key
from tests.ledger.conftest import KEY

BEFORE = ReferenceFile(sha256="ab" * 32, path="before")
AFTER = ReferenceFile(sha256="cd" * 32, path="after")
OTHER = ReferenceFile(sha256="ef" * 32, path="other")
SLICES = [{"slice": number, "path": f"slice-{number}", "sha256": "ab" * 32} for number in (0, 1)]
LEFT = [{"slice": 0, "path": "slice-0", "sha256": "ab" * 32}, {"slice": 1, "path": "new-1", "sha256": "ab" * 32}]


def register(world, file, **more):
    with world.sessions.begin() as session:
        register_references(session, tenant_id=world.tenant_id, model="small", file=file, details={}, **more)


@pytest.fixture
def waiting(world):
    """A job that has made a version, with references and a slice of a training that know nothing of its sample."""
    register(world, BEFORE)
    with world.sessions.begin() as session:
        check_sample_key(session, KEY)
        set_checkpoints(find_model(session, tenant_id=world.tenant_id, name="small"), SLICES)
        set_approvals(session, tenant_id=world.tenant_id, model="small", by="key:admin", versions=True)
    claim = world.submit_and_claim(1)
    world.finish(claim, references=AFTER, checkpoints=LEFT)
    return claim.job_id


def decide(world, how, job_id):
    with world.sessions.begin() as session:
        how(session, tenant_id=world.tenant_id, job_id=job_id, by="key:dpo")


def files(world):
    """The model's references, its slices, and which of the files of this test are needed."""
    with world.sessions.begin() as session:
        model = find_model(session, tenant_id=world.tenant_id, name="small")
        ours = {file.path for file in (BEFORE, AFTER, OTHER)} | {entry["path"] for entry in (*SLICES, *LEFT)}
        return find_references(session, model.id), model.details[CHECKPOINTS], needed_files(session) & ours


def outdated(world):
    with world.sessions.begin() as session:
        return [name for names in list_outdated(session).values() for name in names]


def test_while_a_version_waits_the_model_has_its_own_files_and_those_to_come_are_kept(world, waiting):
    assert files(world) == (BEFORE, SLICES, {"before", "after", "slice-0", "slice-1", "new-1"})
    assert outdated(world) == []


def test_a_refused_version_leaves_the_files_of_the_model(world, waiting):
    decide(world, refuse, waiting)
    assert files(world) == (BEFORE, SLICES, {"before", "slice-0", "slice-1"})
    assert outdated(world) == []


def test_an_approved_version_brings_its_files_and_those_that_know_the_erased_are_to_be_deleted(world, waiting):
    decide(world, approve, waiting)
    assert files(world) == (AFTER, LEFT, {"after", "slice-0", "new-1"})
    assert outdated(world) == ["before", "slice-1"]
    with world.sessions.begin() as session:
        mark_deleted(session, list_outdated(session))
    assert outdated(world) == []


def test_slices_that_came_in_between_stay(world, waiting):
    with world.sessions.begin() as session:
        set_checkpoints(find_model(session, tenant_id=world.tenant_id, name="small"), SLICES[:1])
    decide(world, approve, waiting)
    assert files(world)[:2] == (AFTER, SLICES[:1])


def test_a_version_that_needs_no_approval_brings_its_files_at_once_and_says_what_is_to_be_deleted(world):
    """In the transaction that publishes it, so that a crash right after it leaves nothing behind."""
    register(world, BEFORE)
    world.finish(world.submit_and_claim(1), references=AFTER)
    with world.sessions.begin() as session:
        model = find_model(session, tenant_id=world.tenant_id, name="small")
        assert find_references(session, model.id) == AFTER
    assert outdated(world) == ["before"]


def test_references_are_registered_only_while_no_job_holds_the_model(world):
    """A job that runs, or whose version waits, erases samples that the new file still has rows of."""
    claim = world.submit_and_claim(1)
    with pytest.raises(ModelBusy):
        register(world, BEFORE)
    world.finish(claim)
    with pytest.raises(ErasedMeanwhile):
        register(world, BEFORE)
    with world.sessions() as session:
        erased = list_erased(session, tenant_id=world.tenant_id, model="small")
    register(world, BEFORE, erased=erased)


def test_references_are_not_registered_while_a_version_waits(world, waiting):
    with pytest.raises(ModelBusy):
        register(world, OTHER)


def test_a_rotation_of_the_key_rewrites_the_references_to_come(world, waiting):
    def rewrite(file, rehash):
        return replace(file, path=f"{file.path}, rotated", sha256=file.sha256[::-1])

    with world.sessions.begin() as session:
        rotated = rotate_sample_key(session, old=KEY, new=KEY + bytes(range(32)), rewrite=rewrite)
    assert (rotated.files, rotated.unreadable) == (2, ())
    decide(world, approve, waiting)
    assert files(world)[0] == rewrite(AFTER, None)
