from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, TimeoutError
from sqlalchemy.orm import Session

from ledger.db import NETWORK_LIMITS, make_engine, make_sessions
from ledger.errors import JobCancelled, StaleClaim
from ledger.jobs.cancellation import cancel_job
from ledger.jobs.claims import Claim, ClaimedJob, Renewal, claim, renew_lease
from ledger.states import JobState
from tests.fixtures.postgresql import HURRIED, at_a_distance
from tests.fixtures.waiting import await_that
from tests.worker import digits
from tests.worker.conftest import Bench
from unlearning.training.run import TrainingRun
from worker import lease
from worker.beat.relay import sweep_jobs
from worker.failures import ShuttingDown
from worker.lease import LeaseMonitor, hold_lease
from worker.run import run_job

LEASE = timedelta(seconds=1.5)
"""Of a renewal. A third of it is the time between two."""

LONG = timedelta(minutes=10)
"""Of the claim, so that nothing expires before the first renewal."""


def claimed(bench: Bench, job_id: UUID) -> Claim:
    with bench.sessions.begin() as session:
        found = claim(session, job_id, worker="test", lease=LONG)
    assert found is not None
    return found


def lease_left(bench: Bench, job_id: UUID) -> float:
    with bench.sessions.begin() as session:
        left = text("SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM jobs WHERE id = :id")
        return float(session.execute(left, {"id": job_id}).scalar_one())


def test_a_lease_is_renewed_before_it_expires(bench: Bench, training_ids: tuple[str, ...]) -> None:
    job_id = bench.submit(training_ids[:10])
    with hold_lease(
        claimed(bench, job_id), sessions=bench.sessions, lease=LEASE, stop_signal=bench.stop_signal
    ) as monitor:
        monitor.check()
        await_that(lambda: lease_left(bench, job_id) < LONG.total_seconds() / 2, "a renewal, which is for less")


def test_a_renewal_that_fails_for_whatever_reason_is_tried_again(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [TimeoutError("no connection is free"), InterfaceError("", None, Exception())]

    def failing(session: Session, job: ClaimedJob, *, lease: timedelta) -> Renewal:
        if errors:
            raise errors.pop()
        return renew_lease(session, job, lease=lease)

    job_id = bench.submit(training_ids[:10])
    found = claimed(bench, job_id)
    monkeypatch.setattr(lease, "renew_lease", failing)
    with hold_lease(found, sessions=bench.sessions, lease=LEASE, stop_signal=bench.stop_signal):
        await_that(lambda: lease_left(bench, job_id) < LONG.total_seconds() / 2, "a renewal, which is for less")


def test_a_lost_lease_stops_the_run(bench: Bench, training_ids: tuple[str, ...]) -> None:
    job_id = bench.submit(training_ids[:10])
    with hold_lease(
        claimed(bench, job_id), sessions=bench.sessions, lease=LEASE, stop_signal=bench.stop_signal
    ) as monitor:
        with bench.sessions.begin() as session:
            session.execute(text("UPDATE jobs SET attempt = attempt + 1 WHERE id = :id"), {"id": job_id})
        await_that(monitor.lost.is_set, "the loss")
        with pytest.raises(StaleClaim):
            monitor.check()


def test_a_cancelled_job_stops_the_run(bench: Bench, training_ids: tuple[str, ...]) -> None:
    job_id = bench.submit(training_ids[:10])
    with hold_lease(
        claimed(bench, job_id), sessions=bench.sessions, lease=LEASE, stop_signal=bench.stop_signal
    ) as monitor:
        with bench.sessions.begin() as session:
            cancel_job(session, tenant_id=bench.tenant_id, job_id=job_id)
        await_that(monitor.cancelled.is_set, "the cancellation")
        with pytest.raises(JobCancelled):
            monitor.check()


def test_a_worker_that_shuts_down_stops_the_run(bench: Bench, training_ids: tuple[str, ...]) -> None:
    found = claimed(bench, bench.submit(training_ids[:10]))
    monitor = LeaseMonitor(found, bench.stop_signal)
    monitor.check()
    bench.stop_signal.set()
    with pytest.raises(ShuttingDown):
        monitor.check()


def test_a_job_whose_databases_machine_vanishes_is_left_and_swept_once_it_is_back(
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run's connection, which waits for an acknowledgement, ends; the job is tried again."""
    for name, value in HURRIED.items():
        monkeypatch.setitem(NETWORK_LIMITS, name, value)
    bench = make_bench(reference="tests.worker.digits:with_trainer", checkpoint_seconds=0, lease_seconds=600)
    job_id = bench.submit(training_ids[:10])
    with at_a_distance(database_url) as (relay, url):
        engine = make_engine(url, pool_size=2, statement_seconds=7200)
        far = make_sessions(engine)

        def vanish(step: int, run: TrainingRun) -> None:
            if step == 2:
                relay.vanish()

        monkeypatch.setattr(digits, "hook", vanish)
        assert run_job(job_id, sessions=far, settings=bench.settings, worker="far", stop_signal=bench.stop_signal)
        assert bench.job(job_id).state is JobState.RUNNING
        relay.come_back()
        with far.begin() as session:
            session.execute(text("UPDATE jobs SET lease_until = clock_timestamp() WHERE id = :id"), {"id": job_id})
        swept: list[UUID] = []
        sweep_jobs(far, bench.settings, send=swept.append)
        engine.dispose()
    assert swept == [job_id]
    assert bench.job(job_id).state is JobState.QUEUED
