"""Migration 0015: jobs that await approval, in both ways, come from the version before and go on."""

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, pool, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_sessions, normalise_url
from ledger.jobs.approvals import approve, set_approvals
from ledger.states import JobState, Phase, RequestState
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import World, make_world

BEFORE = "0014"


@pytest.fixture
def empty(blank_database_url: str) -> Iterator[Engine]:
    """A database with no tables."""
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    yield engine
    engine.dispose()


def rows(engine: Engine) -> list[tuple[str, str, bool]]:
    """State, phase and whether there is a lease, of each job in the order of their making."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT state, phase, lease_until IS NOT NULL FROM jobs ORDER BY created_at"))
        return [tuple(row) for row in found]


def set_approval(world: World, model: str, **what: bool) -> None:
    with world.sessions.begin() as session:
        set_approvals(session, tenant_id=world.tenant_id, model=model, by="key:admin", **what)


def test_jobs_that_await_approval_upgrade_and_are_approved(blank_database_url: str, empty: Engine) -> None:
    upgrade(blank_database_url)
    world = make_world(make_sessions(empty))
    set_approval(world, "small", jobs=True)
    set_approval(world, "large", versions=True)
    before_run = world.submit(1).targets[0].job.id
    assert world.claim(before_run) is None
    request = world.submit(2, models=["large"])
    with_version = request.targets[0].job.id
    world.finish(world.claim(with_version))

    command.downgrade(configuration(blank_database_url), BEFORE)
    assert rows(empty) == [("queued", "awaiting_approval", False), ("verifying", "awaiting_approval", False)]

    upgrade(blank_database_url)
    assert rows(empty) == [("awaiting_approval", "waiting", False), ("awaiting_approval", "publish", False)]
    with world.sessions.begin() as session:
        run = approve(session, tenant_id=world.tenant_id, job_id=before_run, by="key:dpo")
        served = approve(session, tenant_id=world.tenant_id, job_id=with_version, by="key:dpo")
    assert (run.state, run.phase) == (JobState.QUEUED, Phase.WAITING)
    assert (served.state, served.phase) == (JobState.COMPLETED, Phase.DONE)
    assert world.request(request.id).state == RequestState.COMPLETED
    assert world.claim(before_run) is not None


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("state = 'awaiting_approval', phase = 'unlearn', frozen_at = now()", "ck_jobs_approval"),
        ("state = 'awaiting_approval', phase = 'publish'", "ck_jobs_frozen"),
        ("phase = 'awaiting_approval'", "ck_jobs_phase"),
        ("state = 'awaiting_approval', frozen_at = now(), lease_until = now()", "ck_jobs_lease"),
    ],
)
def test_the_database_refuses_what_is_no_wait_for_approval(
    sessions: sessionmaker[Session], change: str, constraint: str
) -> None:
    world = make_world(sessions)
    world.submit(1)
    with pytest.raises(IntegrityError, match=constraint), world.sessions.begin() as session:
        session.execute(text(f"UPDATE jobs SET {change}"))


def test_a_migration_that_does_not_get_its_lock_fails_whole_and_soon(blank_database_url: str, empty: Engine) -> None:
    settings = configuration(blank_database_url)
    command.upgrade(settings, BEFORE)
    settings.attributes["lock_timeout"] = "50ms"
    with empty.connect() as reader:
        reader.execute(text("SELECT 1 FROM jobs"))
        with pytest.raises(OperationalError, match="lock timeout"):
            command.upgrade(settings, "head")
        assert reader.scalar(text("SELECT version_num FROM alembic_version")) == BEFORE
    command.upgrade(settings, "head")
