"""What the tests of faults share: the running stack, whose parts are stopped and started again."""

import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from expunge import client
from expunge.operator.deployment import Deployment, find_deployment, open_database
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained
from expunge.stack.process import Child, await_ready, start, stop
from expunge.stack.stack import Stack
from ledger.resources import Job
from tests.end_to_end.conftest import GATED, Gates
from tests.fixtures.registration import RETRAINED
from tests.fixtures.submission import submit_samples
from tests.fixtures.waiting import PATIENCE, await_that

SAMPLES = [f"image-{i}" for i in range(400)]
"""Of these 39 are in the training set."""


@dataclass(frozen=True)
class Scene:
    """The stack, and what a test does with it."""

    stack: Stack
    http: httpx.Client
    where: Deployment
    sessions: sessionmaker[Session]
    trained: Trained
    gates: Gates

    def register(self, name: str) -> None:
        """A model on a dataset of its own, retrained to forget: what happens on the way is what a test is about."""
        register_workload(
            self.where,
            name=name,
            reference=GATED,
            weights=self.trained.path,
            dataset=name,
            **RETRAINED,
            dry_run=False,
        )

    def submit(self, name: str) -> str:
        """Ask for the samples to be erased from a new model; gives the job."""
        self.register(name)
        return self.submit_for(name)

    def submit_for(self, name: str) -> str:
        (job_id,) = client.job_ids(client.submit(self.http, dataset=name, sample_ids=SAMPLES))
        return job_id

    def submit_without_a_message(self, name: str) -> str:
        """The rows alone, without the wake-up that the API would have sent: only the sweep can find them."""
        self.register(name)
        with self.sessions.begin() as session:
            job_id = submit_samples(session, name, SAMPLES, key=self.where.sample_key)
            session.execute(text("DELETE FROM outbox"))
        return job_id

    def watch(self, job_id: UUID) -> Job:
        """Follow the job to its end. Fails with what is known of it before pytest's own limit ends the run without a word."""
        limit = time.monotonic() + 2 * PATIENCE

        def still_patient() -> None:
            assert time.monotonic() < limit, f"a job does not end:\n{self.known_of(job_id)}"

        *_, job = client.watch_job(self.http, job_id, before_poll=still_patient)
        return job

    def known_of(self, job_id: UUID) -> str:
        """What a person would look at: the job, its timeline, who waits for whom in the database, and the ends of the logs."""
        waits = text(
            "SELECT pid, state, wait_event_type, wait_event, pg_blocking_pids(pid) AS blocked_by, "
            "clock_timestamp() - state_change AS since, left(query, 200) AS query "
            "FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid() AND state != 'idle'"
        )
        with self.sessions.begin() as session:
            sessions = [str(dict(row)) for row in session.execute(waits).mappings()]
        logs = [
            f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            for log in sorted({child.program.log.parent for child in self.stack.children}.pop().glob("*.log"))
        ]
        return "\n".join([repr(self.job(job_id)), self.timeline(job_id), *sessions, *logs])

    def job(self, job_id: UUID) -> Job:
        return client.get_job(self.http, job_id)

    def part(self, name: str) -> Child:
        return self.stack.children[self.place_of(name)]

    def place_of(self, name: str) -> int:
        return next(i for i, child in enumerate(self.stack.children) if child.program.name == name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        self.part(name).process.send_signal(number)
        self.part(name).process.wait()

    def start(self, name: str) -> None:
        place = self.place_of(name)
        self.stack.children[place] = start(self.stack.children[place].program)

    def start_and_wait(self, name: str) -> None:
        self.start(name)
        await_ready(self.part(name))

    @contextmanager
    def replaced(self, name: str, by: str, **environment: str) -> Iterator[Child]:
        """Another process of the part, with further settings, in its place while the context lasts."""
        place, usual = self.place_of(name), self.part(name)
        stop(usual)
        self.stack.children[place] = another(usual, by, **environment)
        try:
            await_ready(self.stack.children[place])
            yield self.stack.children[place]
        finally:
            stop(self.stack.children[place])
            self.stack.children[place] = usual
            self.start(name)

    def worker_child(self) -> psutil.Process:
        """The process in which jobs run."""
        parent = psutil.Process(self.part("the worker").process.pid)
        found: list[psutil.Process] = []
        await_that(lambda: found.extend(parent.children()) or found, "the worker to have a child")
        return found[0]

    def expire_lease(self, job_id: UUID) -> None:
        """Spare the wait for the rest of the lease; one test waits for it."""
        with self.sessions.begin() as session:
            soon = text("UPDATE jobs SET lease_until = clock_timestamp() WHERE id = :id AND lease_until IS NOT NULL")
            session.execute(soon, {"id": job_id})

    def timeline(self, job_id: UUID) -> str:
        return "\n".join(event["text"] for event in self.http.get(f"/jobs/{job_id}/events").json()["items"])

    def events(self, job_id: UUID, kind: str) -> list[dict[str, Any]]:
        """The data of a job's events of one kind."""
        items = self.http.get(f"/jobs/{job_id}/events").json()["items"]
        return [event["data"] for event in items if event["kind"] == kind]

    def outcomes(self, job_id: UUID) -> list[str]:
        return [attempt["outcome"] for attempt in self.http.get(f"/jobs/{job_id}/attempts").json()["items"]]

    def reasons(self, job_id: UUID) -> list[str | None]:
        return [attempt["reason"] for attempt in self.http.get(f"/jobs/{job_id}/attempts").json()["items"]]

    def ended_once(self, name: str, job_id: UUID) -> Job:
        """Follow the job to its end: completed, its request with it, one version published by it, and nothing left over."""
        job = self.watch(job_id)
        assert job.state == "completed", (job, self.timeline(job_id))
        assert [version["number"] for version in self.http.get(f"/models/{name}/versions").json()["items"]] == [2, 1]
        (request,) = [item for item in self.http.get("/unlearn-requests").json()["items"] if str(job_id) in str(item)]
        assert request["state"] == "completed"
        assert self.outcomes(job_id).count("published") == 1
        checkpoints = self.stack.folder.weights / "checkpoints" / str(job_id)
        await_that(lambda: not checkpoints.exists(), "the checkpoints to be deleted with their job")
        return job


@pytest.fixture(scope="session")
def scene(running: Stack, http: httpx.Client, trained: Trained, gates: Gates) -> Iterator[Scene]:
    where = find_deployment(running.folder.root)
    with open_database(where.database_url) as sessions:
        yield Scene(running, http, where, sessions, trained, gates)


@pytest.fixture(autouse=True)
def _whole_again(scene: Scene) -> Iterator[None]:
    """Open the gates that a failed test left shut, and start what it left dead: the tests that follow use the same stack."""
    yield
    for left in scene.gates.folder.iterdir():
        left.unlink()
    for child in list(scene.stack.children):
        if child.process.poll() is not None:
            scene.start_and_wait(child.program.name)


def signal_all(process: psutil.Process, number: signal.Signals) -> None:
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it may end while the others are signalled
            each.send_signal(number)


def another(child: Child, name: str, **environment: str) -> Child:
    """The same program once more, under another name and with other settings."""
    ready = child.program.log.with_name(f"{name.replace(' ', '-')}.ready")
    given = {**(child.program.environment or {}), **environment, "EXPUNGE_READY_FILE": str(ready)}
    program = dataclasses.replace(
        child.program, name=name, log=ready.with_suffix(".log"), environment=given, ready=ready
    )
    return start(program)
