"""A worker finds out by itself which registered models it cannot build, in the environment that it was started with."""

import dataclasses
import os
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import select, update

from ledger.db import now
from ledger.jobs.workers import CHECK_LIMIT, ask_for_check, start_check
from ledger.registry.models import get_model
from ledger.resources import WorkerCheck
from ledger.tables import Model
from tests.worker import digits
from tests.worker.conftest import Bench
from unlearning.data.workload import Workload
from worker import checks
from worker.checks import check_model

VARIABLE = "EXPUNGE_TEST_SCANS"
REFERENCE = "tests.worker.test_checks:workload"


def workload() -> Workload:
    """A factory that reads a variable, which the registering command has."""
    return dataclasses.replace(digits.workload(), fingerprints={"scanner": os.environ[VARIABLE]})


@pytest.fixture
def registered(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv(VARIABLE, "/scans")
    return make_bench(reference=REFERENCE)


def asked(bench: Bench, *, worker_age: float = 0.0) -> list[UUID]:
    """Which model a worker asks for that has run for so many seconds, if any."""
    with bench.sessions.begin() as session:
        found = ask_for_check(session, since=now(session) - timedelta(seconds=worker_age))
    return [] if found is None else [found]


def checked(bench: Bench) -> WorkerCheck | None:
    with bench.sessions() as session:
        return get_model(session, tenant_id=bench.tenant_id, name="digits").worker_check


def check(bench: Bench, model_id: UUID) -> str | None:
    """Do what the worker's task does; gives the fault."""
    check_model(model_id, sessions=bench.sessions, settings=bench.settings)
    found = checked(bench)
    assert found is not None
    assert found.ended_at is not None
    return found.fault


def test_a_variable_that_the_worker_lacks_is_found_before_a_request_and_its_next_start_looks_again(
    registered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(registered) is None
    (model_id,) = asked(registered)
    monkeypatch.delenv(VARIABLE)

    fault = check(registered, model_id)

    assert fault is not None
    assert VARIABLE in fault
    assert "test_checks.py" in fault
    assert asked(registered, worker_age=60) == []  # the same worker would find the same
    monkeypatch.setenv(VARIABLE, "/scans")
    assert asked(registered) == [model_id]
    assert check(registered, model_id) is None
    assert asked(registered) == []


def test_a_model_trained_with_something_else_is_found_before_its_first_request(
    registered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model_id,) = asked(registered)
    with registered.sessions.begin() as session:
        session.execute(update(Model).values(details={"fingerprints": {"scanner": "/scans"}}))
    assert check(registered, model_id) is None
    monkeypatch.setenv(VARIABLE, "/other")
    fault = check(registered, model_id)
    assert fault is not None
    assert "scanner" in fault


def test_a_message_that_the_ledger_cannot_hold_as_it_is_leaves_the_check_with_a_fault(
    registered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model_id,) = asked(registered)

    def unreadable() -> Workload:
        raise ValueError("a file begins with \0\udcff")

    monkeypatch.setattr(digits, "workload", unreadable)

    assert "begins with ??" in str(check(registered, model_id))


def test_an_allow_list_without_the_module_and_missing_weights_are_found(registered: Bench) -> None:
    (model_id,) = asked(registered)
    check_model(
        model_id, sessions=registered.sessions, settings=registered.settings.model_copy(update={"workloads": "other"})
    )
    found = checked(registered)
    assert found is not None
    assert found.fault is not None
    assert "allow-list (other)" in found.fault
    with registered.sessions.begin() as session:
        version = get_model(session, tenant_id=registered.tenant_id, name="digits").version
    registered.settings.files.delete(f"{version.weights_sha256}.safetensors")
    assert "no weights file" in str(check(registered, model_id))


def test_a_check_that_did_not_end_is_asked_for_again_by_the_next_worker_alone(registered: Bench) -> None:
    """Its process was killed, or the message got lost."""
    (model_id,) = asked(registered)
    assert asked(registered, worker_age=60) == []
    assert asked(registered) == [model_id]


def test_what_failed_or_did_not_start_is_asked_for_again_after_an_hour_and_what_hung_is_not(registered: Bench) -> None:
    """A factory may have been mended, a message lost. A factory that hangs would keep the worker from its jobs each time."""
    (model_id,) = asked(registered)
    with registered.sessions() as session:
        long_ago = now(session) - timedelta(hours=2)
    for started, ended, fault, again in (
        (long_ago, long_ago, "as before", [model_id]),
        (None, None, None, [model_id]),
        (long_ago, None, None, []),
        (long_ago, long_ago, None, []),
    ):
        values = {"check_started_at": started, "check_ended_at": ended, "check_fault": fault}
        with registered.sessions.begin() as session:
            session.execute(update(Model).values(check_asked_at=long_ago, **values))
        assert asked(registered, worker_age=86_400) == again


def test_a_job_waits_for_one_hanging_factory_at_most(registered: Bench) -> None:
    """The next model is asked for behind the jobs that came while the check before it ran."""
    with registered.sessions.begin() as session:
        first = session.scalars(select(Model)).one()
        names = {column.name for column in Model.__table__.columns} - {"id", "name"}
        copied = {name: getattr(first, name) for name in names}
        session.add(Model(name="another", **copied))
    (one,) = asked(registered, worker_age=60)
    assert asked(registered, worker_age=60) == []  # it waits in the queue
    with registered.sessions.begin() as session:
        start_check(session, one)
    assert asked(registered, worker_age=60) == []  # it hangs
    with registered.sessions.begin() as session:
        long_ago = now(session) - CHECK_LIMIT - timedelta(seconds=1)
        session.execute(update(Model).where(Model.id == one).values(check_started_at=long_ago))
    (other,) = asked(registered, worker_age=60)  # its process was ended
    assert other != one


def test_a_model_that_is_gone_is_not_checked(registered: Bench) -> None:
    check_model(UUID(int=0), sessions=registered.sessions, settings=registered.settings)
    assert checked(registered) is None


def test_nothing_counts_as_asked_for_while_the_broker_is_away(registered: Bench) -> None:
    def away(model_id: UUID) -> None:
        raise OperationalError

    with pytest.raises(OperationalError):
        checks.send_next_check(registered.sessions, send=away, started=time.monotonic())
    assert checked(registered) is None
    sent: list[UUID] = []
    for _ in range(2):
        checks.send_next_check(registered.sessions, send=sent.append, started=time.monotonic() - 60)
    assert len(sent) == 1


def test_a_worker_that_was_started_anew_looks_again_at_what_failed_and_not_at_what_passed(registered: Bench) -> None:
    (model_id,) = asked(registered)
    for fault, again in ((None, []), ("as before", [model_id])):
        with registered.sessions.begin() as session:
            session.execute(update(Model).values(check_ended_at=now(session), check_fault=fault))
        assert asked(registered) == again
