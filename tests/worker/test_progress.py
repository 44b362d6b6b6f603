from datetime import timedelta

import pytest

from ledger.jobs.claims import claim
from ledger.states import Phase
from tests.worker.conftest import Bench
from unlearning.task import Progress
from worker import progress as progressing
from worker.lease import Watch
from worker.progress import Journal, note, overall, spent, start_afresh


@pytest.fixture
def journal(bench: Bench, training_ids: tuple[str, ...]) -> Journal:
    job_id = bench.submit(training_ids[:10])
    with bench.sessions.begin() as session:
        found = claim(session, job_id, worker="test", lease=timedelta(minutes=1))
    assert found is not None
    return Journal(Watch(found, bench.stopping), bench.sessions)


def step(number: int, **metrics: float) -> Progress:
    return Progress(phase="unlearn", step=number, total=100, metrics=metrics)


def test_progress_is_written_when_a_phase_begins_and_then_no_more_often_than_agreed(
    bench: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        note(journal, step(number))
    job = bench.job(journal.watch.claim.job_id)
    assert (job.phase, job.step, job.total) == (Phase.UNLEARN, 0, 100)
    monkeypatch.setattr(progressing, "INTERVAL", 0.0)
    note(journal, step(50, loss=0.5))
    job = bench.job(job.id)
    assert (job.step, job.progress, job.metrics) == (50, pytest.approx(0.3), {"loss": 0.5})
    assert job.eta_seconds is not None


def test_steps_that_are_added_on_the_way_take_no_progress_back(
    bench: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progressing, "INTERVAL", 0.0)
    note(journal, Progress(phase="unlearn", step=40, total=40))
    note(journal, Progress(phase="unlearn", step=41, total=160))
    job = bench.job(journal.watch.claim.job_id)
    assert (job.step, job.total, job.progress) == (41, 160, pytest.approx(0.55))

    note(journal, Progress(phase="audit_membership", step=0, total=0))
    note(journal, Progress(phase="unlearn", step=0, total=40))
    assert bench.job(job.id).progress == pytest.approx(0.05)


def test_a_metric_that_json_cannot_hold_is_left_out(bench: Bench, journal: Journal) -> None:
    note(journal, step(0, loss=float("nan"), accuracy=0.9))
    assert bench.job(journal.watch.claim.job_id).metrics == {"accuracy": 0.9}


def test_progress_only_grows_from_phase_to_phase() -> None:
    phases = ["load", "unlearn", "audit_membership", "audit_relearn", "report", "publish"]
    places = [overall(Phase(phase), step=done, total=10) for phase in phases for done in (0, 5, 10)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 1.0)


def test_the_figures_of_an_attempt_are_its_own_but_loading_is_everyones(journal: Journal) -> None:
    journal.timings.update(load=1.0, unlearn=10.0)
    start_afresh(journal)
    journal.timings["unlearn"] += 5.0
    assert spent(journal) == {"load": 1.0, "unlearn": 5.0}
