"""The parent's watch on its children: here one that does nothing at all, on a real ledger."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from billiard import Process  # type: ignore[import-untyped]  # it ships no types

from ledger.jobs.cancellation import cancel_job
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import list_attempts
from ledger.states import JobState, Phase, Reason
from tests.fixtures.waiting import PATIENCE, await_that
from tests.ledger.conftest import progress
from tests.worker import digits
from tests.worker.conftest import Bench
from unlearning.training.run import TrainingRun
from worker.run import run_job
from worker.watchdog import Board, Note, ProgressNotes, Watchdog

NEVER, AT_ONCE = dict.fromkeys(Phase, 3600.0), dict.fromkeys(Phase, -1.0)
"""Limits that are not reached, and that are over at once."""


@pytest.fixture
def hanging() -> Iterator[Process]:
    """A child that hangs for ever."""
    child = Process(target=time.sleep, args=(3600,))
    child.start()
    yield child
    child.terminate()
    child.join()


class Watched:
    """A child's job, and the parent that watches it."""

    def __init__(self, bench: Bench, child: Process, job_id: UUID) -> None:
        self.bench, self.child, self.job_id, self.board = bench, child, job_id, Board()
        self.watchdog = Watchdog(bench.sessions, bench.settings, self.board)

    def take(self) -> Claim:
        return self.bench.claim(self.job_id)

    def notes(self, limits: dict[Phase, float]) -> ProgressNotes:
        return ProgressNotes(self.board, 3, limits, pid=self.child.pid)

    def poll_twice(self) -> None:
        """As one poll may read a note while it is written."""
        self.watchdog.poll()
        self.watchdog.poll()

    @property
    def alive(self) -> bool:
        return bool(self.child.is_alive())


@pytest.fixture
def watched(make_bench: Callable[..., Bench], hanging: Process, training_ids: tuple[str, ...]) -> Watched:
    bench = make_bench(policy=("ieu", "retrain"), retry_seconds=0)
    return Watched(bench, hanging, bench.submit(training_ids[:10]))


def reasons(watched: Watched) -> list[Reason | None]:
    with watched.bench.sessions.begin() as session:
        attempts = list_attempts(session, tenant_id=watched.bench.tenant_id, job_id=watched.job_id)
    return [attempt.reason for attempt in attempts]


def test_a_child_without_progress_is_killed_and_its_job_is_tried_once_more(watched: Watched) -> None:
    watched.notes(AT_ONCE).advance(watched.take(), Phase.LOAD)
    watched.watchdog.poll()
    assert watched.alive
    watched.watchdog.poll()
    await_that(lambda: not watched.alive, "the child to end")
    assert watched.child.exitcode == -signal.SIGKILL
    assert watched.bench.job(watched.job_id).state is JobState.QUEUED
    assert watched.board.read() == {}

    watched.notes(AT_ONCE).advance(watched.take(), Phase.LOAD)
    watched.poll_twice()
    job = watched.bench.job(watched.job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.STALLED)
    assert "phase load" in str(job.detail)
    assert reasons(watched) == [Reason.STALLED, Reason.STALLED]


def test_a_method_that_hangs_twice_gives_way_to_the_next(watched: Watched) -> None:
    for _ in range(2):
        found = watched.take()
        with watched.bench.sessions.begin() as session:
            progress(session, found, phase=Phase.UNLEARN)
        watched.notes(AT_ONCE).advance(found, Phase.UNLEARN)
        watched.poll_twice()
    job = watched.bench.job(watched.job_id)
    assert (job.state, job.method["kind"]) == (JobState.QUEUED, "retrain")


def test_a_training_function_that_never_reports_counts_as_stalled(
    make_bench: Callable[..., Bench], hanging: Process, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole run, in a thread of this process; what the watchdog kills is a child in its place."""
    bench = make_bench(reference="tests.worker.digits:with_trainer", retry_seconds=0)
    watched = Watched(bench, hanging, bench.submit(training_ids[:10]))
    begun, released = threading.Event(), threading.Event()

    def hang(step: int, run: TrainingRun) -> None:
        begun.set()
        released.wait(PATIENCE)

    monkeypatch.setattr(digits, "hook", hang)
    arguments = {"sessions": bench.sessions, "settings": bench.settings, "stop_signal": bench.stop_signal}
    notes = watched.notes({**NEVER, Phase.UNLEARN: -1.0})
    running = threading.Thread(
        target=run_job, args=(watched.job_id,), kwargs={**arguments, "worker": "test", "notes": notes}
    )
    running.start()
    try:
        assert begun.wait(PATIENCE)
        watched.poll_twice()
        await_that(lambda: not watched.alive, "the child to end")
        assert bench.job(watched.job_id).state is JobState.QUEUED
        assert reasons(watched) == [Reason.STALLED]
    finally:
        released.set()
        running.join()
    assert reasons(watched) == [Reason.STALLED]  # what the function still did came too late


def test_a_child_that_makes_progress_is_left_alone(watched: Watched) -> None:
    found = watched.take()
    for _ in range(3):  # late at each poll, and further each time
        watched.notes(AT_ONCE).advance(found, Phase.UNLEARN)
        watched.watchdog.poll()
    watched.notes(NEVER).advance(found, Phase.UNLEARN)
    watched.poll_twice()
    assert watched.alive
    assert watched.bench.job(watched.job_id).state is JobState.RUNNING


def test_a_child_without_a_job_is_left_alone(watched: Watched) -> None:
    notes = watched.notes(AT_ONCE)
    notes.advance(watched.take(), Phase.LOAD)
    notes.end()
    watched.poll_twice()
    assert watched.alive


def test_a_hanging_job_can_be_cancelled(watched: Watched) -> None:
    notes, found = watched.notes(NEVER), watched.take()
    notes.advance(found, Phase.LOAD)
    with watched.bench.sessions.begin() as session:
        cancel_job(session, tenant_id=watched.bench.tenant_id, job_id=watched.job_id)
    notes.hurry(found, seconds=-1)
    notes.advance(found, Phase.LOAD)  # a step at the same moment takes no time back
    watched.poll_twice()
    await_that(lambda: not watched.alive, "the child to end")
    job = watched.bench.job(watched.job_id)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.CANCELLED_BY_CALLER)


def test_a_process_that_is_no_child_is_never_killed(watched: Watched) -> None:
    """A number may belong to another process by now."""
    found = watched.take()
    note = Note(
        deadline=time.monotonic() - 1, job_id=found.job_id, attempt=found.attempt, pid=1, limit=1.0, phase="load"
    )
    watched.board.write(0, note)
    assert watched.board.read() == {0: note}
    watched.poll_twice()
    assert watched.bench.job(watched.job_id).state is JobState.QUEUED


def test_the_child_is_killed_also_if_its_end_cannot_be_written(watched: Watched) -> None:
    """The sweep then finds the expired lease."""

    class Away:
        def begin(self) -> None:
            raise ConnectionRefusedError

    watched.notes(AT_ONCE).advance(watched.take(), Phase.LOAD)
    watched.watchdog.sessions = Away()  # type: ignore[assignment]  # a database that does not answer
    watched.poll_twice()
    await_that(lambda: not watched.alive, "the child to end")
