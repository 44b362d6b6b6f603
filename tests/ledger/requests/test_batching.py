import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from ledger.events.timeline import list_model_events
from ledger.jobs.jobs import count_to_erase, samples_of_open_job
from ledger.registry.models import get_model, set_escalation
from ledger.requests import cancellation, submission
from ledger.requests.batching import DEADLINE_RESERVE, DEFAULT_DURATION, SAFETY_FACTOR, closing_time, job_policy
from ledger.states import ClosingReason, Escalation, JobState, RequestState
from ledger.tables import Model
from tests.fixtures.waiting import PATIENCE
from tests.ledger.conftest import IEU, LTU, digests

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def reach_closing_time(world):
    with world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET cut_off = clock_timestamp() WHERE state = 'queued'"))


def test_requests_for_one_model_share_a_job(world):
    first, second = world.submit(1, window=HOUR), world.submit(1, 2, window=HOUR)
    assert first.targets[0].job.id == second.targets[0].job.id
    assert second.targets[0].job.closes_at == first.targets[0].job.closes_at
    assert first.targets[0].job.closes_at - first.created_at <= HOUR + timedelta(minutes=1)
    assert first.targets[0].job.closing_reason == ClosingReason.WINDOW
    job = world.job(first.targets[0].job.id)
    assert (job.requests, job.samples) == (2, None)


def test_a_job_is_not_claimed_before_it_closes(world):
    job_id = world.submit(1, window=HOUR).targets[0].job.id
    assert world.claim(job_id) is None
    assert world.sweep().wake == []
    reach_closing_time(world)
    assert world.sweep().wake == [job_id]
    assert world.claim(job_id).samples.forget == frozenset(digests(1))


def test_the_first_claim_closes_the_job_and_later_requests_open_the_next(world):
    first = world.submit(1, 2, 90)
    world.submit(2, 3)
    claim = world.claim(first.targets[0].job.id)
    assert claim.samples.forget == frozenset(digests(1, 2, 3))
    assert claim.requests == 2
    later = world.submit(4)
    assert later.targets[0].job.id != claim.job_id
    job = world.job(claim.job_id)
    assert job.samples == 3
    world.expire_lease(claim.job_id)
    world.sweep()
    assert world.claim(claim.job_id).samples.forget == claim.samples.forget


def test_what_was_erased_before_does_not_count_among_the_samples_of_a_job(world):
    world.finish(world.submit_and_claim(1))
    job_id = world.submit(1, 2, 3).targets[0].job.id
    with world.sessions() as session:
        model_id = session.scalar(select(Model.id).where(Model.name == "small"))
        assert count_to_erase(session, model_id, samples_of_open_job(job_id)) == 2
    claim = world.claim(job_id)
    assert (world.job(job_id).samples, len(claim.samples.forget)) == (2, 2)


def test_an_expedited_request_does_not_wait_for_the_window(world):
    world.submit(1, window=HOUR)
    target = world.submit(2, window=HOUR, expedite=True).targets[0]
    assert target.job.closing_reason == ClosingReason.EXPEDITE
    assert world.claim(target.job.id).requests == 2


def test_a_near_deadline_closes_the_job_earlier(world):
    relaxed = world.submit(1, window=timedelta(days=10)).targets[0]
    urgent = world.submit(2, window=timedelta(days=10), received_at=datetime.now(UTC) - timedelta(days=24))
    target = urgent.targets[0]
    assert target.job.id == relaxed.job.id
    assert target.job.closes_at == urgent.due_at - SAFETY_FACTOR * DEFAULT_DURATION
    assert target.job.closing_reason == ClosingReason.DEADLINE


@pytest.mark.parametrize(
    ("window", "due", "duration", "expedite", "closes_after", "why"),
    [
        (HOUR, 30 * 24 * HOUR, 2 * HOUR, False, HOUR, ClosingReason.WINDOW),
        (HOUR, 6.5 * HOUR, 2 * HOUR, False, 0.5 * HOUR, ClosingReason.DEADLINE),
        (HOUR, 2 * HOUR, 2 * HOUR, False, 0 * HOUR, ClosingReason.DEADLINE),
        (HOUR, -HOUR, HOUR, False, 0 * HOUR, ClosingReason.DEADLINE),
        (HOUR, 30 * 24 * HOUR, HOUR, True, 0 * HOUR, ClosingReason.EXPEDITE),
        (0 * HOUR, 30 * 24 * HOUR, HOUR, False, 0 * HOUR, ClosingReason.WINDOW),
        (None, 30 * 24 * HOUR, HOUR, False, 26 * 24 * HOUR - 3 * HOUR, ClosingReason.DEADLINE),
        (None, 10 * HOUR, HOUR, False, 5 * HOUR, ClosingReason.DEADLINE),
        (None, 2 * HOUR, HOUR, False, 0 * HOUR, ClosingReason.DEADLINE),
    ],
)
def test_a_job_closes_at_the_earlier_of_window_and_latest_start(window, due, duration, expedite, closes_after, why):
    got = closing_time(moment=NOON, window=window, due_at=NOON + due, duration=duration, expedite=expedite)
    assert got == (NOON + closes_after, why)


def test_another_method_closes_the_open_job_and_opens_the_next(world):
    ltu = world.submit(1, method=LTU, window=HOUR).targets[0]
    ieu = world.submit(2, method=IEU, window=HOUR).targets[0]
    again = world.submit(3, method=dict(IEU), window=HOUR).targets[0]
    assert ltu.job.id != ieu.job.id == again.job.id
    closed = world.job(ltu.job.id)
    assert (closed.closing_reason, closed.samples) == (ClosingReason.METHOD, 1)
    claim = world.claim(ltu.job.id)
    assert (claim.method, claim.policy, claim.origin) == (LTU, (LTU, IEU), "request")
    world.finish(claim)
    reach_closing_time(world)
    claim = world.claim(ieu.job.id)
    assert (claim.method, claim.policy, claim.base_version) == (IEU, (IEU,), 2)


def test_requests_for_a_method_whose_numbers_json_writes_otherwise_share_a_job(world):
    """PostgreSQL gives 1.59e308 back as an integer of 309 digits, which is not the same number."""
    odd = {"kind": "gradient_ascent", "stop": {"allowed_drop": 1.5948263347682487e308, "tolerance": 9203676758055938.0}}
    first, second = (world.submit(number, method=odd, window=HOUR).targets[0].job for number in (1, 2))
    assert first.id == second.id
    assert world.submit(3, method=IEU, window=HOUR).targets[0].job.id != first.id


def test_a_policy_goes_on_after_the_requested_method():
    ascent = {"kind": "gradient_ascent"}
    slow = {"kind": "ltu", "rate": 0.01}
    assert job_policy([LTU, IEU], None) == [LTU, IEU]
    assert job_policy([LTU, IEU], slow) == [slow, IEU]
    assert job_policy([LTU, IEU], IEU) == [IEU]
    assert job_policy([LTU, IEU], ascent) == [ascent, LTU, IEU]


def test_many_requests_at_once_open_one_job(world):
    jobs, ready = [], threading.Barrier(8)

    def send(number):
        ready.wait()
        jobs.append(world.submit(number, window=HOUR).targets[0].job.id)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 8
    assert len(set(jobs)) == 1
    reach_closing_time(world)
    assert world.claim(jobs[0]).samples.forget == frozenset(digests(*range(8)))


def test_no_acknowledged_request_is_left_out_when_its_job_is_claimed_at_the_same_moment(world):
    """Requests come in while a worker takes job after job: each sample ends in exactly one job."""
    done, errors = threading.Event(), []

    def work():
        try:
            while not done.is_set() or world.sweep().wake:
                for job_id in world.sweep().wake:
                    claim = world.claim(job_id)
                    if claim:
                        world.finish(claim)
        except Exception as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    requests = [world.submit(number).id for number in range(15)]
    done.set()
    worker.join()
    assert errors == []
    assert {world.request(request_id).state for request_id in requests} == {"completed"}
    assert world.count("erased_samples") == world.count("job_samples") == 15


def test_the_database_allows_one_open_and_one_active_job_a_model(world):
    first = world.submit(1).targets[0].job.id
    world.claim(first)
    second = world.submit(2).targets[0].job.id
    for change, index in (
        ("state = 'running', frozen_at = now(), lease_until = now()", "uq_jobs_one_active_a_model"),
        ("model_id = (SELECT id FROM models WHERE name = 'large')", None),
    ):
        with world.sessions() as session:
            statement = text(f"UPDATE jobs SET {change} WHERE id = :id")
            if index is None:
                session.execute(statement, {"id": second})
                session.commit()
                continue
            with pytest.raises(IntegrityError, match=index):
                session.execute(statement, {"id": second})
    world.submit(3)
    with world.sessions() as session, pytest.raises(IntegrityError, match="uq_jobs_one_open_a_model"):
        session.execute(
            text("UPDATE jobs SET model_id = (SELECT id FROM models WHERE name = 'large') WHERE frozen_at IS NULL")
        )
    assert world.job(first).state == JobState.RUNNING


def configure(world, **settings):
    with world.sessions.begin() as session:
        set_escalation(session, tenant_id=world.tenant_id, model="small", by="key:admin", **settings)


def test_with_too_few_samples_a_job_waits_for_more_and_never_past_the_last_start(world):
    configure(world, batch_until_samples=4)
    first = world.submit(1, 2, window=HOUR)
    waiting = first.targets[0].job
    assert waiting.closes_at == first.due_at - SAFETY_FACTOR * DEFAULT_DURATION - DEADLINE_RESERVE
    assert waiting.closing_reason == ClosingReason.DEADLINE

    still = world.submit(3, window=HOUR).targets[0].job
    assert (still.id, still.closes_at) == (waiting.id, waiting.closes_at)
    enough = world.submit(4, window=HOUR)
    closing = enough.targets[0].job
    assert (closing.id, closing.closing_reason) == (waiting.id, ClosingReason.WINDOW)
    assert closing.closes_at - enough.created_at <= HOUR + timedelta(minutes=1)


def test_requests_that_come_at_once_are_enough_together(world, monkeypatch):
    """The second has begun before the first is committed: it waits for the job's lock, and counts the first one's samples."""
    configure(world, batch_until_samples=4)
    waits, join, joined = threading.Event(), submission.join_job, []

    def join_in_turn(*arguments, **options):
        found = join(*arguments, **options)
        joined.append(found)
        if len(joined) == 1:
            other.start()
            with world.sessions() as session:  # until the second waits for a lock
                blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
                while not session.scalar(blocked):
                    assert other.is_alive()
                    waits.wait(0.01)
        return found

    monkeypatch.setattr(submission, "join_job", join_in_turn)
    other = threading.Thread(target=world.submit, args=(3, 4), kwargs={"window": HOUR})
    job_id = world.submit(1, 2, window=HOUR).targets[0].job.id
    other.join(PATIENCE)
    assert len(joined) == 2
    assert world.job(job_id).closing_reason is ClosingReason.WINDOW


def test_waiting_for_samples_is_turned_off_and_is_passed_by_an_expedited_request(world):
    configure(world, batch_until_samples=4)
    assert world.submit(1, expedite=True).targets[0].job.closing_reason == ClosingReason.EXPEDITE
    configure(world, batch_until_samples=0)
    assert world.submit(2).targets[0].job.closing_reason == ClosingReason.EXPEDITE  # it joins the same job
    configure(world)
    with world.sessions() as session:
        assert get_model(session, tenant_id=world.tenant_id, name="small").batch_until_samples is None


def test_a_job_escalates_as_the_request_that_asks_for_most(world):
    first = world.submit(1, window=HOUR, escalate=Escalation.NEVER).targets[0].job.id
    assert world.job(first).escalate is Escalation.NEVER
    world.submit(2, window=HOUR)
    assert world.job(first).escalate is Escalation.WHEN_IT_CAN_HELP
    asked = world.submit(3, window=HOUR, escalate=Escalation.ALWAYS)
    assert asked.escalate is Escalation.ALWAYS
    world.submit(4, window=HOUR, escalate=Escalation.NEVER)
    assert world.job(first).escalate is Escalation.ALWAYS
    reach_closing_time(world)
    assert world.claim(first).escalate is Escalation.ALWAYS


def test_a_model_has_a_setting_of_its_own_for_its_next_jobs(world):
    configure(world, escalate=Escalation.ALWAYS)
    job = world.submit(1).targets[0].job.id
    configure(world, escalate=Escalation.NEVER)
    assert world.claim(job).escalate is Escalation.ALWAYS
    assert world.claim(world.submit(2).targets[0].job.id) is None  # the model is taken
    with world.sessions() as session:
        kinds = [event.kind for event in list_model_events(session, tenant_id=world.tenant_id, model="small")]
    assert kinds.count("model.escalation") == 2


def test_a_submission_and_a_cancellation_over_several_models_never_wait_for_each_other(world, monkeypatch):
    """The submission has joined the first model's job while the cancellation has locked its jobs of both models."""
    with world.sessions() as session:
        first = session.scalars(select(Model.name).order_by(Model.id)).first()
    hour = timedelta(hours=1)
    withdrawn = world.submit(1, models=None, window=hour)
    world.submit(2, models=[first], method=IEU, window=hour)  # the first model's job of both is closed by it
    joined, locked, errors = threading.Event(), threading.Event(), []
    join, stop = submission.join_job, cancellation.stop_job

    def join_slowly(*arguments, **options):
        found = join(*arguments, **options)
        joined.set()
        assert locked.wait(PATIENCE)
        return found

    def stop_after_all_are_locked(*arguments):
        locked.set()
        stop(*arguments)

    def act(what):
        try:
            what()
        except Exception as error:
            errors.append(error)
        finally:
            joined.set()
            locked.set()

    def cancel():
        assert joined.wait(PATIENCE)
        with world.sessions.begin() as session:
            cancellation.cancel_request(session, tenant_id=world.tenant_id, request_id=withdrawn.id)

    monkeypatch.setattr(submission, "join_job", join_slowly)
    monkeypatch.setattr(cancellation, "stop_job", stop_after_all_are_locked)
    threads = [
        threading.Thread(target=act, args=(what,))
        for what in (lambda: world.submit(3, models=None, method=IEU, expedite=True, window=hour), cancel)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert world.request(withdrawn.id).state == RequestState.CANCELLED
