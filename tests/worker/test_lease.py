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
from ledger.jobs.claims import ClaimedJob, Renewal, renew_lease
from ledger.states import JobState, Phase
from tests.fixtures.postgresql import HURRIED, at_a_distance
from tests.fixtures.waiting import await_that
from tests.worker import digits
from tests.worker.conftest import Bench
from unlearning.steps import Progress
from unlearning.training.run import TrainingRun
from worker import lease
from worker.beat.relay import sweep_jobs
from worker.failures import ShuttingDown
from worker.lease import Run, attempt_timings, hold_lease, report_progress, share_of_job, start_next_attempt
from worker.run import run_job

LEASE = timedelta(seconds=1.5)
"""Of a renewal. A third of it is the time between two."""

LONG = timedelta(minutes=10)
"""Of the claim, so that nothing expires before the first renewal."""


@pytest.fixture
def run(bench: Bench, training_ids: tuple[str, ...]) -> Run:
    """A claimed job's run, whose renewals are for `LEASE`."""
    claimed = bench.claim(bench.submit(training_ids[:10]), lease=LONG)
    settings = bench.settings.model_copy(update={"lease_seconds": LEASE.total_seconds()})
    return Run(claimed, bench.sessions, settings, bench.stop_signal)


def lease_left(run: Run) -> float:
    with run.sessions.begin() as session:
        left = text("SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM jobs WHERE id = :id")
        return float(session.execute(left, {"id": run.claim.job_id}).scalar_one())


def test_a_lease_is_renewed_before_it_expires(run: Run) -> None:
    with hold_lease(run):
        run.check()
        await_that(lambda: lease_left(run) < LONG.total_seconds() / 2, "a renewal, which is for less")


def test_a_renewal_that_fails_for_whatever_reason_is_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [TimeoutError("no connection is free"), InterfaceError("", None, Exception())]

    def failing(session: Session, job: ClaimedJob, *, lease: timedelta) -> Renewal:
        if errors:
            raise errors.pop()
        return renew_lease(session, job, lease=lease)

    monkeypatch.setattr(lease, "renew_lease", failing)
    with hold_lease(run):
        await_that(lambda: lease_left(run) < LONG.total_seconds() / 2, "a renewal, which is for less")


def test_a_lost_lease_stops_the_run(bench: Bench, run: Run) -> None:
    with hold_lease(run):
        with bench.sessions.begin() as session:
            session.execute(text("UPDATE jobs SET attempt = attempt + 1 WHERE id = :id"), {"id": run.claim.job_id})
        await_that(run.lost.is_set, "the loss")
        with pytest.raises(StaleClaim):
            run.check()


def test_a_cancelled_job_stops_the_run(bench: Bench, run: Run) -> None:
    with hold_lease(run):
        with bench.sessions.begin() as session:
            cancel_job(session, tenant_id=bench.tenant_id, job_id=run.claim.job_id)
        await_that(run.cancelled.is_set, "the cancellation")
        with pytest.raises(JobCancelled):
            run.check()


def test_a_worker_that_shuts_down_stops_the_run(bench: Bench, run: Run) -> None:
    run.check()
    bench.stop_signal.set()
    with pytest.raises(ShuttingDown):
        run.check()


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


def step(number: int, **metrics: float) -> Progress:
    return Progress(phase="unlearn", step=number, total=100, metrics=metrics)


def test_progress_is_written_when_a_phase_begins_and_then_no_more_often_than_agreed(
    bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "INTERVAL", 3600.0)
    for number in range(50):
        report_progress(run, step(number))
    job = bench.job(run.claim.job_id)
    assert (job.phase, job.step, job.total) == (Phase.UNLEARN, 0, 100)
    monkeypatch.setattr(lease, "INTERVAL", 0.0)
    report_progress(run, step(50, loss=0.5))
    job = bench.job(job.id)
    assert (job.step, job.progress, job.metrics) == (50, pytest.approx(0.3), {"loss": 0.5})
    assert job.eta_seconds is not None


def test_steps_that_are_added_on_the_way_take_no_progress_back(
    bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "INTERVAL", 0.0)
    report_progress(run, Progress(phase="unlearn", step=40, total=40))
    report_progress(run, Progress(phase="unlearn", step=41, total=160))
    job = bench.job(run.claim.job_id)
    assert (job.step, job.total, job.progress) == (41, 160, pytest.approx(0.55))

    report_progress(run, Progress(phase="audit_membership", step=0, total=0))
    report_progress(run, Progress(phase="unlearn", step=0, total=40))
    assert bench.job(job.id).progress == pytest.approx(0.05)


def test_a_metric_that_json_cannot_hold_is_left_out(bench: Bench, run: Run) -> None:
    report_progress(run, step(0, loss=float("nan"), accuracy=0.9))
    assert bench.job(run.claim.job_id).metrics == {"accuracy": 0.9}


def test_progress_only_grows_from_phase_to_phase() -> None:
    phases = ["load", "unlearn", "audit_membership", "audit_relearn", "report", "publish"]
    places = [share_of_job(Phase(phase), step=done, total=10) for phase in phases for done in (0, 5, 10)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 1.0)


def test_the_figures_of_an_attempt_are_its_own_but_loading_is_everyones(run: Run) -> None:
    run.timings.update(load=1.0, unlearn=10.0)
    start_next_attempt(run)
    run.timings["unlearn"] += 5.0
    assert attempt_timings(run) == {"load": 1.0, "unlearn": 5.0}
