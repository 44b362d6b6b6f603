from datetime import timedelta

import pytest

from ledger.jobs.claims import claim
from ledger.states import Phase
from tests.worker.conftest import Bench
from unlearning.steps import Progress
from worker import progress as progressing
from worker.lease import LeaseMonitor
from worker.progress import ProgressReporter, attempt_timings, report_progress, share_of_job, start_next_attempt


@pytest.fixture
def reporter(bench: Bench, training_ids: tuple[str, ...]) -> ProgressReporter:
    job_id = bench.submit(training_ids[:10])
    with bench.sessions.begin() as session:
        found = claim(session, job_id, worker="test", lease=timedelta(minutes=1))
    assert found is not None
    return ProgressReporter(LeaseMonitor(found, bench.stop_signal), bench.sessions)


def step(number: int, **metrics: float) -> Progress:
    return Progress(phase="unlearn", step=number, total=100, metrics=metrics)


def test_progress_is_written_when_a_phase_begins_and_then_no_more_often_than_agreed(
    bench: Bench, reporter: ProgressReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progressing, "INTERVAL", 3600.0)
    for number in range(50):
        report_progress(reporter, step(number))
    job = bench.job(reporter.monitor.claim.job_id)
    assert (job.phase, job.step, job.total) == (Phase.UNLEARN, 0, 100)
    monkeypatch.setattr(progressing, "INTERVAL", 0.0)
    report_progress(reporter, step(50, loss=0.5))
    job = bench.job(job.id)
    assert (job.step, job.progress, job.metrics) == (50, pytest.approx(0.3), {"loss": 0.5})
    assert job.eta_seconds is not None


def test_steps_that_are_added_on_the_way_take_no_progress_back(
    bench: Bench, reporter: ProgressReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progressing, "INTERVAL", 0.0)
    report_progress(reporter, Progress(phase="unlearn", step=40, total=40))
    report_progress(reporter, Progress(phase="unlearn", step=41, total=160))
    job = bench.job(reporter.monitor.claim.job_id)
    assert (job.step, job.total, job.progress) == (41, 160, pytest.approx(0.55))

    report_progress(reporter, Progress(phase="audit_membership", step=0, total=0))
    report_progress(reporter, Progress(phase="unlearn", step=0, total=40))
    assert bench.job(job.id).progress == pytest.approx(0.05)


def test_a_metric_that_json_cannot_hold_is_left_out(bench: Bench, reporter: ProgressReporter) -> None:
    report_progress(reporter, step(0, loss=float("nan"), accuracy=0.9))
    assert bench.job(reporter.monitor.claim.job_id).metrics == {"accuracy": 0.9}


def test_progress_only_grows_from_phase_to_phase() -> None:
    phases = ["load", "unlearn", "audit_membership", "audit_relearn", "report", "publish"]
    places = [share_of_job(Phase(phase), step=done, total=10) for phase in phases for done in (0, 5, 10)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 1.0)


def test_the_figures_of_an_attempt_are_its_own_but_loading_is_everyones(reporter: ProgressReporter) -> None:
    reporter.timings.update(load=1.0, unlearn=10.0)
    start_next_attempt(reporter)
    reporter.timings["unlearn"] += 5.0
    assert attempt_timings(reporter) == {"load": 1.0, "unlearn": 5.0}
