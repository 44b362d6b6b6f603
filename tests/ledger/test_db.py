from datetime import UTC, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.db import make_engine, make_sessions, normalise_url, now


@pytest.mark.parametrize("given", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"])
def test_every_spelling_of_the_url_is_taken(given):
    assert normalise_url(given).render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h/d"


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
