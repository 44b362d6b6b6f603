import os
from datetime import UTC, datetime, timedelta

import pytest

from ledger.db import now
from ledger.errors import (
    InvalidTime,
    NoSamplesMatch,
    TooLate,
    UnknownDataset,
    UnknownModel,
    UnknownRegulation,
    UnknownRequest,
)
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.requests.cancellation import cancel_request
from ledger.requests.deadlines import extend_deadline
from ledger.requests.requests import get_request, list_request_samples, list_requests
from ledger.requests.submission import submit
from ledger.resources import SampleCounts
from ledger.states import JobState, Reason, RequestState, SampleOutcome
from tests.ledger.conftest import LTU, WEIGHTS, digests, nothing_written, statements


def cancel(world, request):
    with world.sessions.begin() as session:
        return cancel_request(session, tenant_id=world.tenant_id, request_id=request.id)


def listed(world, **filters):
    with world.sessions() as session:
        return list_requests(session, tenant_id=world.tenant_id, **filters)


def test_a_request_tells_what_it_means_for_each_sample(world):
    request = world.submit(1, 2, 2, 90, 500)
    assert request.state == RequestState.SCHEDULED
    assert request.samples == SampleCounts(accepted=2, already_erased=0, not_in_training_set=2)
    (target,) = request.targets
    assert (target.model, target.samples.accepted, target.samples.not_in_training_set) == ("small", 2, 2)
    with world.sessions() as session:
        missing = list_request_samples(
            session, tenant_id=world.tenant_id, request_id=request.id, outcome=SampleOutcome.NOT_IN_TRAINING_SET
        )
    assert set(missing) == set(digests(90, 500))


def test_by_default_every_model_trained_on_the_samples_is_touched(world):
    both = world.submit(1, models=None)
    assert [(t.model, t.samples.accepted) for t in both.targets] == [("large", 1), ("small", 1)]
    assert len({t.job.id for t in both.targets}) == 2
    one = world.submit(90, models=None)
    assert [t.model for t in one.targets] == ["large"]


def test_a_named_model_that_was_not_trained_on_them_rejects(world):
    request = world.submit(90, models=["small", "large"])
    assert {t.model: (t.state, t.reason) for t in request.targets} == {
        "large": (RequestState.SCHEDULED, None),
        "small": (RequestState.REJECTED, Reason.NOT_IN_TRAINING_SET),
    }
    world.finish(world.claim(request.targets[0].job.id))
    assert world.request(request.id).state == RequestState.COMPLETED


def test_what_is_erased_already_is_completed_at_once(world):
    world.finish(world.submit_and_claim(1, 2))
    mixed = world.submit(1, 3)
    assert (mixed.samples.accepted, mixed.samples.already_erased) == (1, 1)
    again = world.submit(1, 2, 500)
    assert again.state == "completed"
    assert again.samples == SampleCounts(accepted=0, already_erased=2, not_in_training_set=1)
    assert again.targets[0].reason == Reason.ALREADY_ERASED
    assert again.finished_at is not None


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"models": ["tiny"]}, UnknownModel, "'tiny'"),
        ({"regulation": "gpdr"}, UnknownRegulation, "'gpdr'"),
        ({"received_at": datetime(2026, 1, 1)}, InvalidTime, "time zone"),
        ({"received_at": datetime(2996, 1, 1, tzinfo=UTC)}, InvalidTime, "future"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(world, changes, error, words):
    with nothing_written(world), pytest.raises(error, match=words):
        world.submit(1, **changes)


def test_a_request_in_which_nothing_matches_is_refused_and_nothing_is_written(world):
    with nothing_written(world), pytest.raises(NoSamplesMatch, match="2 samples"):
        world.submit(90, 500)
    with nothing_written(world), pytest.raises(NoSamplesMatch):
        world.submit()


def test_another_tenant_sees_nothing(world):
    request = world.submit(1)
    with world.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        for call in (get_request, cancel_request):
            with pytest.raises(UnknownRequest):
                call(session, tenant_id=other, request_id=request.id)
        with pytest.raises(UnknownDataset):
            submit(
                session, tenant_id=other, caller="x", dataset="digits", digests=digests(1), batch_window=timedelta(0)
            )
        assert list_requests(session, tenant_id=other).items == []


def test_the_legal_clock_starts_when_the_person_asked(world):
    with world.sessions() as session:
        yesterday = now(session) - timedelta(days=1)
    request = world.submit(1, received_at=yesterday, regulation="ccpa")
    assert request.due_at == yesterday + timedelta(days=45)
    assert world.submit(2).received_at > yesterday


def test_a_deadline_is_extended_once_with_a_reason(world):
    received = datetime.now(UTC) - timedelta(days=3)
    request = world.submit(1, received_at=received)
    with world.sessions.begin() as session:
        extended = extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="many requests")
    assert extended.due_at - request.due_at > timedelta(days=58)
    assert extended.extension_reason == "many requests"
    with world.sessions.begin() as session:
        with pytest.raises(TooLate):
            extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="more")
        with pytest.raises(ValueError, match="reason"):
            extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason=" ")


def test_what_is_overdue_cannot_be_extended(world):
    request = world.submit(1, received_at=datetime.now(UTC) - timedelta(days=40))
    with world.sessions.begin() as session, pytest.raises(TooLate):
        extend_deadline(session, tenant_id=world.tenant_id, request_id=request.id, reason="late")


def test_a_list_is_read_page_by_page_while_requests_come_in(world):
    old = [world.submit(n).id for n in range(5)]
    first = listed(world, limit=2)
    newer = world.submit(10).id
    second = listed(world, limit=2, cursor=first.next_cursor)
    third = listed(world, limit=2, cursor=second.next_cursor)
    assert [r.id for page in (first, second, third) for r in page.items] == old[::-1]
    assert third.next_cursor is None
    assert newer not in old


def test_a_list_can_be_filtered(world):
    done = world.submit(1)
    world.finish(world.claim(done.targets[0].job.id))
    waits = world.submit(2, models=["large"], received_at=datetime.now(UTC) - timedelta(days=20))
    assert [r.id for r in listed(world, state=RequestState.COMPLETED).items] == [done.id]
    assert [r.id for r in listed(world, model="large").items] == [waits.id]
    assert [r.id for r in listed(world, due_before=datetime.now(UTC) + timedelta(days=15)).items] == [waits.id]
    assert listed(world, model="nobody").items == []


def test_a_request_leaves_a_job_that_has_not_closed(world):
    stays = world.submit(1, batch_window=timedelta(hours=1))
    goes = world.submit(2, batch_window=timedelta(hours=1))
    job_id = stays.targets[0].job.id
    assert world.job(job_id).requests == 2
    assert cancel(world, goes).state == RequestState.CANCELLED
    assert cancel(world, goes).state == RequestState.CANCELLED
    assert world.job(job_id).requests == 1
    with world.sessions.begin() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET cut_off = now()")
    assert world.claim(job_id).forget == frozenset(digests(1))


def test_a_job_that_everybody_leaves_ends(world):
    request = world.submit(1, batch_window=timedelta(hours=1))
    cancel(world, request)
    assert world.job(request.targets[0].job.id).state == JobState.CANCELLED
    assert world.submit(1, batch_window=timedelta(hours=1)).targets[0].job.id != request.targets[0].job.id


def test_only_a_request_alone_on_its_closed_job_can_be_cancelled(world):
    alone = world.submit(1)
    claim = world.claim(alone.targets[0].job.id)
    assert cancel(world, alone).state == RequestState.RUNNING
    assert world.job(claim.job_id).cancel_requested
    world.fail(claim, Reason.CANCELLED_BY_CALLER)
    assert world.request(alone.id).state == RequestState.CANCELLED
    first, second = world.submit(2), world.submit(3)
    world.claim(first.targets[0].job.id)
    with nothing_written(world), pytest.raises(TooLate):
        cancel(world, second)


def test_a_finished_request_cannot_be_cancelled(world):
    request = world.submit(1)
    world.finish(world.claim(request.targets[0].job.id))
    with nothing_written(world), pytest.raises(TooLate, match="completed"):
        cancel(world, request)


def test_cancelling_leaves_what_is_done_as_it_is(world):
    request = world.submit(1, models=None)
    world.finish(world.claim(request.targets[0].job.id))
    after = cancel(world, request)
    assert {t.model: t.state for t in after.targets} == {"large": "completed", "small": "cancelled"}
    assert after.state == RequestState.CANCELLED
    assert after.targets[0].version == 2


def test_many_samples_take_as_many_statements_as_few_from_the_request_to_the_new_version(world):
    def count(name, samples):
        with world.sessions.begin() as session:
            register_dataset(session, tenant_id=world.tenant_id, name=name, digests=samples)
            register_model(
                session,
                tenant_id=world.tenant_id,
                name=name,
                dataset=name,
                workload="w:w",
                training=samples,
                weights_sha256=WEIGHTS,
                weights_path=name,
                policy=[LTU],
                details={},
            )
        with statements(world) as executed:
            with world.sessions.begin() as session:
                request = submit(
                    session,
                    tenant_id=world.tenant_id,
                    caller="portal",
                    dataset=name,
                    digests=samples,
                    batch_window=timedelta(0),
                )
            claim = world.claim(request.targets[0].job.id)
            world.finish(claim)
        assert request.samples.accepted == len(claim.forget) == len(samples)
        return len(executed)

    assert count("many", [os.urandom(32) for _ in range(5000)]) == count("few", [os.urandom(32)])
