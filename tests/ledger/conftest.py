"""A small world for the ledger's tests: a tenant, a dataset, two models, a caller and a worker."""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session, sessionmaker

from ledger.jobs import claims, results
from ledger.jobs.attempts import RetryRule
from ledger.jobs.claims import lock_claimed_job
from ledger.jobs.jobs import get_job
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.registry.subjects import assign_subjects
from ledger.requests.do_not_train import read_digests
from ledger.requests.requests import get_request
from ledger.requests.submission import Submission, submit
from ledger.sample_ids import commit_to_subject, sample_digest, subject_digest
from ledger.states import Phase
from report.document import read
from tests.fixtures.waiting import await_that
from tests.report.recorded import stored

KEY = bytes(32)
LTU = {"kind": "ltu", "rate": 0.1}
IEU = {"kind": "ieu"}
WEIGHTS = "ab" * 32
LEASE = timedelta(seconds=60)
RETRY_RULE = RetryRule(max_tries=3)


def digests(*numbers: int) -> list[bytes]:
    """The digests of the samples with these numbers."""
    return [sample_digest(KEY, "digits", f"person-{number}") for number in numbers]


def people(*names: str) -> list[bytes]:
    """The digests of the people with these names."""
    return [subject_digest(KEY, name) for name in names]


def committed(*names: str, key: bytes = KEY) -> dict[bytes, bytes]:
    """What a request is given for these people: the digest of each, with the sealed commitment."""
    return {subject_digest(key, name): commit_to_subject(key, name) for name in names}


@dataclass(frozen=True)
class World:
    """A tenant with the dataset `digits` (samples 0–99) and the models `small` (0–79) and `large` (0–99), and who acts in it."""

    sessions: sessionmaker[Session]
    tenant_id: UUID

    def submission(self, *numbers, **changes):
        """A request for the samples with these numbers to be forgotten by `small`, or what differs from it."""
        given = {
            "tenant_id": self.tenant_id,
            "caller": "portal",
            "datasets": ["digits"],
            "digests": digests(*numbers),
            "models": ["small"],
        }
        return Submission(**given | changes)

    def submit(self, *numbers, window=timedelta(0), idempotency=None, **changes):
        with self.sessions.begin() as session:
            return submit(session, self.submission(*numbers, **changes), window=window, idempotency=idempotency)

    def claim(self, job_id, worker="worker"):
        with self.sessions.begin() as session:
            return claims.claim(session, job_id, worker=worker, lease=LEASE)

    def submit_and_claim(self, *numbers, **changes):
        return self.claim(self.submit(*numbers, **changes).targets[0].job.id)

    def verify(self, claim):
        with self.sessions.begin() as session:
            claims.enter_verifying(session, lock_claimed_job(session, claim))

    def publish(self, claim, *, verdict="verified", **more):
        with self.sessions.begin() as session:
            return publish(session, claim, verdict=verdict, **more)

    def finish(self, claim, **more):
        self.verify(claim)
        return self.publish(claim, **more)

    def escalate(self, claim, **more):
        """Leave a method whose result is not verified for the next one; gives the claim for it."""
        with self.sessions.begin() as session:
            job = lock_claimed_job(session, claim)
            return results.escalate(
                session, job, claim, finding={"verdict": "inconclusive"}, why="Not verified.", **more
            )

    def fail(self, claim, reason, *, retry=False, max_tries=RETRY_RULE.max_tries, first_wait=RETRY_RULE.first_wait):
        rule = RetryRule(max_tries=max_tries, first_wait=first_wait) if retry else None
        with self.sessions.begin() as session:
            job = lock_claimed_job(session, claim)
            results.fail(session, job, reason=reason, detail="as the test wants", rule=rule)

    def sweep(self, *, max_lease=None, max_tries=RETRY_RULE.max_tries):
        with self.sessions.begin() as session:
            return claims.sweep(session, rule=RetryRule(max_tries=max_tries), max_lease=max_lease)

    def job(self, job_id):
        with self.sessions() as session:
            return get_job(session, tenant_id=self.tenant_id, job_id=job_id)

    def request(self, request_id):
        with self.sessions() as session:
            return get_request(session, tenant_id=self.tenant_id, request_id=request_id)

    def expire_lease(self, job_id):
        with self.sessions.begin() as session:
            session.execute(
                text("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second' WHERE id = :id"),
                {"id": job_id},
            )

    def count(self, table, where="true"):
        with self.sessions() as session:
            return session.scalar(text(f"SELECT count(*) FROM {table} WHERE {where}"))

    def await_lock(self, what):
        """Wait until a statement on this database waits for another transaction's lock."""
        blocked = "datname = current_database() AND wait_event_type = 'Lock'"
        await_that(lambda: self.count("pg_stat_activity", blocked), what)


def assign(session, tenant_id, dataset, **owned):
    """Let each person own some samples of a dataset, given by their digests."""
    rows = [(*people(who), digest, 1) for who, theirs in owned.items() for digest in theirs]
    assign_subjects(session, tenant_id=tenant_id, dataset=dataset, rows=rows)


def listed_names(world, find, name):
    """Read one of the do-not-train lists of a dataset or a model."""
    with world.sessions() as session:
        found = read_digests(session, find(session, tenant_id=world.tenant_id, name=name))
        return [digest for some in found for digest in some]


def document(*, verdict, samples):
    """A report with a new ID, about so many samples."""
    report = stored("verified") | {"report_id": str(uuid4())}
    report["verdict"]["value"] = verdict
    report["asked"]["samples"] = samples
    return read(report)


def publish(session, claim, *, verdict="verified", **more):
    """Publish a report of its own, and give its ID."""
    written = document(verdict=verdict, samples=len(claim.samples.forget))
    result = results.Publication(document=written, weights_path="cdcd.safetensors", **more)
    results.publish(session, claim, result, timings={"unlearn": 2.0, "data_wait": 0.5})
    return UUID(written.report.report_id)


def progress(session, claim, **changes):
    """Record some progress."""
    given = {
        "phase": Phase.UNLEARN,
        "progress": 0.3,
        "step": 3,
        "total": 10,
        "eta_seconds": 7.0,
        "metrics": {},
        "timings": {},
    }
    claims.record_progress(session, lock_claimed_job(session, claim), **given | changes)


@contextmanager
def statements(world):
    """The SQL statements that are executed inside; one that is executed for many rows counts for each of them."""
    found = []

    def note(connection, cursor, statement, parameters, context, executemany):
        found.extend([statement] * (len(parameters) if executemany else 1))

    engine = world.sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def nothing_written(world):
    """Whatever happens inside leaves every row as it was."""
    before = _contents(world)
    yield
    assert _contents(world) == before


def _contents(world):
    from ledger.tables import Base

    with world.sessions() as session:
        return {
            table: sorted(session.scalars(text(f"SELECT t::text FROM {table} t"))) for table in Base.metadata.tables
        }


def make_world(sessions):
    """A new world on an empty database."""
    with sessions.begin() as session:
        tenant_id = ensure_tenant(session, "hospital")
        register_dataset(session, tenant_id=tenant_id, name="digits", digests=digests(*range(100)))
        for name, training in (("small", range(80)), ("large", range(100))):
            register_model(
                session,
                tenant_id=tenant_id,
                name=name,
                dataset="digits",
                workload="examples.digits:workload",
                training=digests(*training),
                weights_sha256=WEIGHTS,
                weights_path="first.safetensors",
                policy=[LTU, IEU],
                details={"training_seconds": 12.5},
            )
    return World(sessions, tenant_id)


_LOCKING = re.compile(r"\bFOR (?:NO KEY )?UPDATE\b")
_FROM = re.compile(r"\bFROM (\w+)")
_INSERTED = re.compile(r"\bINSERT INTO (\w+)")
_CHANGED = re.compile(r"UPDATE (\w+) SET .* WHERE \1\.id = %\(\1_id\)s", re.DOTALL)
"""How SQLAlchemy writes changed attributes of a row that was read before."""
_GUARDED_BY = {"model_versions": "models", "log_leaves": "log_head"}
"""Tables whose rows are changed under the lock of another's."""


@contextmanager
def locked_before_changed(world):
    """In each transaction, whoever reads a row and then changes it has locked it, or made it: else two of them undo each other.

    By tables, not by rows.
    """
    mine, unlocked = "locked or inserted", []

    def note(connection, cursor, statement, parameters, context, executemany):
        known = connection.info.setdefault(mine, set())
        if _LOCKING.search(statement):
            known.update(_FROM.findall(statement))
        if "DO NOTHING" not in statement or "RETURNING" in statement:
            known.update(_INSERTED.findall(statement))
        changed = _CHANGED.findall(statement)
        unlocked.extend(statement for table in changed if not known & {table, _GUARDED_BY.get(table)})

    def forget(connection):
        connection.info.pop(mine, None)

    listeners = {"before_cursor_execute": note, "commit": forget, "rollback": forget}
    engine = world.sessions.kw["bind"]
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners.items():
            event.remove(engine, name, listener)
    assert unlocked == []


@pytest.fixture
def world(filled):
    made = filled(make_world)
    with locked_before_changed(made):
        yield made
