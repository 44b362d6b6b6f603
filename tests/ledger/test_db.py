import os
import pwd
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta

import psycopg
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from expunge.operator.doctor import check_database
from expunge.stack.broker import free_port
from ledger import db
from ledger.db import (
    NETWORK_LIMITS,
    allow_long_statements,
    connection_options,
    make_engine,
    make_sessions,
    normalise_url,
    now,
    session_settings,
)
from ledger.jobs.cancellation import retry_job
from ledger.jobs.workers import STORAGE, record_heartbeat
from ledger.registry.versions import promote, register_version
from ledger.requests import do_not_train, uploads
from ledger.states import Reason, RequestState
from ledger.tables import Heartbeat
from migrations.commands import upgrade
from tests.fixtures.postgresql import HURRIED, at_a_distance
from tests.fixtures.waiting import await_that
from tests.ledger.conftest import WEIGHTS, digests, make_world


@pytest.mark.parametrize("given", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"])
def test_every_spelling_of_the_url_is_taken(given):
    assert normalise_url(given).render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h/d"


@pytest.mark.parametrize(
    "url", ["no url of secret", "postgresql://me:pa@ss:secret@host/db", "postgresql://me:secret@host:secret/db"]
)
def test_a_url_that_cannot_be_read_is_not_quoted(url):
    """A special character in a password makes another part of the URL of what follows it."""
    with pytest.raises(ValueError, match="%40") as refused:
        normalise_url(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_another_database_is_refused():
    with pytest.raises(ValueError, match="sqlite"):
        normalise_url("sqlite:///x")


def test_times_are_aware_and_in_utc(sessions):
    with sessions() as session:
        moment = now(session)
        assert moment.utcoffset() == timedelta(0)
        assert moment.tzinfo is not None
        assert session.scalar(text("SHOW timezone")).upper() == "UTC"
        assert now(session) > moment
        assert moment.astimezone(UTC) == moment


def test_a_connection_that_the_server_closed_is_made_again(database_url):
    engine = make_engine(database_url, pool_size=1)
    sessions = make_sessions(engine)
    with sessions() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    other = make_engine(database_url)
    with other.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with sessions() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != pid
    engine.dispose()
    other.dispose()


def test_an_error_does_not_tell_what_the_caller_sent(sessions):
    with sessions() as session, pytest.raises(DBAPIError) as raised:
        session.execute(text("SELECT 1 FROM nowhere WHERE reason = :reason"), {"reason": "Jane Roe asked"})
    assert "Jane Roe" not in str(raised.value)


POOLERS = {
    "refuses the options of a session": "",
    "drops the options of a session": "ignore_startup_parameters = options,extra_float_digits",
}


@pytest.fixture(params=POOLERS.values(), ids=POOLERS.keys())
def pooled_url(request, blank_database_url, tmp_path):
    """The URL of PgBouncer in transaction mode, with two connections to a database without tables."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
    server = make_url(blank_database_url)
    host = server.query.get("host") or server.host
    port = free_port()
    users, settings = tmp_path / "users", tmp_path / "pgbouncer.ini"
    users.write_text(f'"{server.username}" ""\n')
    settings.write_text(
        f"""[databases]
pooled = host={host} port={server.port or 5432} dbname={server.database} user={server.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 2
query_wait_timeout = 20
{request.param}
"""
    )
    for parent in [tmp_path, *tmp_path.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o055)
    owner = os.stat(f"{host}/.s.PGSQL.{server.port or 5432}").st_uid if str(host).startswith("/") else os.geteuid()
    as_other = ["-u", pwd.getpwuid(owner).pw_name] if os.geteuid() == 0 else []  # it does not run as root
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([program, *as_other, str(settings)], stdout=log, stderr=log)
    url = f"postgresql://{server.username}@127.0.0.1:{port}/pooled"
    try:
        await_that(lambda: process.poll() is not None or answers(url), "PgBouncer to accept connections")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def answers(url):
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def pooled(pooled_url):
    upgrade(pooled_url)
    engine = make_engine(pooled_url, pool_size=4, statement_seconds=7)
    yield make_sessions(engine)
    engine.dispose()


def test_pgbouncer_in_transaction_mode_serves_transactions_of_many_connections(pooled):
    """More clients than connections, each statement often enough to be prepared: every transaction may meet another connection."""

    def ask(number):
        found = []
        for _ in range(12):
            with pooled.begin() as session:
                found.append(session.scalar(text("SELECT CAST(:number AS int) + 1"), {"number": number}))
                limits = [session.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "timezone")]
        return found, limits

    with ThreadPoolExecutor(4) as threads:
        answered = list(threads.map(ask, range(4)))
    assert [found for found, _ in answered] == [[number + 1] * 12 for number in range(4)]
    assert check_database(pooled).text.endswith("answers through a connection pooler.")
    assert [(timeout, zone.lower()) for _, (timeout, zone) in answered] == [("7s", "utc")] * 4


def test_behind_pgbouncer_a_request_is_recorded_run_and_published(pooled):
    world = make_world(pooled)
    for number in range(1, 7):
        request = world.submit(number)
        world.finish(world.claim(request.targets[0].job.id))
        assert world.request(request.id).state == RequestState.COMPLETED
    with pooled.begin() as session:
        allow_long_statements(session)
        assert session.scalar(text("SHOW statement_timeout")) == "30min"
    with pooled.begin() as session:
        assert session.scalar(text("SHOW statement_timeout")) == "7s"


def test_behind_pgbouncer_a_long_list_is_uploaded_and_read(pooled):
    world = make_world(pooled)
    for _ in range(6):
        with pooled.begin() as session:
            with uploads.receive_digests(session) as copy:
                uploads.send_digests(copy, [(digest, line) for line, digest in enumerate(digests(1, 2), start=1)])
            assert uploads.store_upload(session, tenant_id=world.tenant_id, dataset="digits").samples == 2
    world.finish(world.submit_and_claim(1, 2))
    with pooled() as session:
        listed = do_not_train.of_dataset(session, tenant_id=world.tenant_id, name="digits")
        assert [digest for chunk in do_not_train.read_digests(session, listed) for digest in chunk] == sorted(
            digests(1, 2)
        )


def test_options_of_the_url_are_not_dropped_silently(pooled_url, request):
    if "drops" in request.node.callspec.id:
        pytest.skip("this one drops them, as it is configured to")
    engine = make_engine(f"{pooled_url}?options=-csearch_path%3Dother")
    with pytest.raises(OperationalError, match="startup parameter"), engine.connect():
        pass
    engine.dispose()


def test_without_a_pooler_sessions_are_not_taken_for_pooled(sessions):
    with sessions() as session:
        driver = session.connection().connection.driver_connection
        assert (driver.is_pooled, driver.prepare_threshold) == (False, 5)


def test_connections_notice_within_a_minute_that_their_other_end_has_vanished():
    given = make_url("postgresql+psycopg://u@h/d?keepalives_idle=7&options=-c%20work_mem%3D8MB")
    options = connection_options(given, session_settings(statement_seconds=12))
    assert "keepalives_idle" not in options  # the URL's own counts
    assert int(options["keepalives_interval"]) * int(options["keepalives_count"]) <= 30
    assert int(options["tcp_user_timeout"]) <= 60_000
    assert options["options"].endswith("-c work_mem=8MB")


@pytest.mark.parametrize("limits", [HURRIED, pytest.param({}, marks=pytest.mark.slow)], ids=["hurried", "as they are"])
@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT pg_sleep(3600)"], ids=["not acknowledged", "not answered"])
def test_a_statement_ends_once_the_database_has_vanished_without_a_packet(
    database_url, engine, monkeypatch, limits, statement
):
    """Nothing else would end it in the time of a test: TCP itself sends for a quarter of an hour, and waits for two."""
    for name, value in limits.items():
        monkeypatch.setitem(NETWORK_LIMITS, name, value)
    with at_a_distance(database_url) as (relay, url):
        far = make_engine(url, pool_size=1, statement_seconds=7200)
        with make_sessions(far)() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))

            def vanish_once_it_waits():
                active = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND state = 'active'")
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as observer:
                    await_that(lambda: observer.scalar(active, {"pid": pid}), "the statement to begin")
                relay.vanish()

            vanishing = threading.Thread(target=vanish_once_it_waits if "sleep" in statement else relay.vanish)
            vanishing.start()
            if "sleep" not in statement:
                vanishing.join()
            with pytest.raises(OperationalError) as raised:
                session.execute(text(statement))
            vanishing.join()
        far.dispose()
    assert raised.value.connection_invalidated


def test_statements_and_idle_transactions_have_a_limit_of_time(database_url):
    engine = make_engine(database_url, pool_size=1, statement_seconds=0.5)
    sessions = make_sessions(engine)
    with sessions() as session, pytest.raises(OperationalError, match="statement timeout"):
        session.execute(text("SELECT pg_sleep(60)"))
    other = make_engine(database_url).execution_options(isolation_level="AUTOCOMMIT")
    with sessions() as session, other.connect() as observer:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        await_that(lambda: not observer.scalar(alive, {"pid": pid}), "the server to end the idle transaction")
        with pytest.raises(DBAPIError) as raised:
            session.execute(text("SELECT 1"))
    other.dispose()
    engine.dispose()
    assert raised.value.connection_invalidated


def test_a_process_frozen_in_a_transaction_gives_up_its_locks_long_before_a_statement_would_end(
    database_url, monkeypatch
):
    assert session_settings(statement_seconds=300)["idle_in_transaction_session_timeout"] == "30000"
    monkeypatch.setattr(db, "IDLE_LIMIT", 0.5)
    engine = make_engine(database_url, pool_size=2, statement_seconds=300)
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        record_heartbeat(session, STORAGE)
    locked = select(Heartbeat).where(Heartbeat.name == STORAGE).with_for_update()
    with sessions() as frozen, sessions() as other:
        frozen.execute(locked)
        assert other.scalars(locked).one()
        with pytest.raises(DBAPIError) as raised:
            frozen.execute(text("SELECT 1"))
    engine.dispose()
    assert raised.value.connection_invalidated


def test_long_statements_are_allowed_within_their_transaction_alone(database_url):
    engine = make_engine(database_url, pool_size=1, statement_seconds=7)
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        allow_long_statements(session)
        assert session.scalar(text("SELECT current_setting('statement_timeout')")) == "30min"
    with sessions() as session:
        assert session.scalar(text("SELECT current_setting('statement_timeout')")) == "7s"
    engine.dispose()


def test_a_connection_without_a_limit_gets_none_for_long_statements(database_url):
    engine = make_engine(database_url)
    with make_sessions(engine).begin() as session:
        allow_long_statements(session)
        assert session.scalar(text("SELECT current_setting('statement_timeout')")) == "0"
    engine.dispose()


def test_calls_that_go_through_a_whole_list_of_samples_may_take_longer(world):
    failed = world.submit_and_claim(1)
    world.fail(failed, Reason.UNEXPECTED)
    of = {"tenant_id": world.tenant_id}
    with world.sessions.begin() as session:
        register_version(
            session,
            **of,
            model="small",
            training=digests(2),
            weights_sha256=WEIGHTS,
            weights_path="anew",
            by="operator",
        )
    engine = make_engine(world.sessions.kw["bind"].url, pool_size=1, statement_seconds=7)
    for act in (
        lambda session: promote(session, **of, model="small", number=2, by="key:admin"),
        lambda session: retry_job(session, **of, job_id=failed.job_id),
    ):
        with make_sessions(engine)() as session:
            act(session)
            assert session.scalar(text("SHOW statement_timeout")) == "30min"
    engine.dispose()
