from collections.abc import Iterator

import pytest
from sqlalchemy import URL, create_engine, pool

from ledger.db import make_sessions
from migrations.commands import upgrade
from tests.fixtures.postgresql import database
from tests.ledger.conftest import World, make_world


@pytest.fixture(scope="session")
def _newest(postgresql: URL) -> Iterator[str]:
    """A database with the newest schema that nobody connects to: copying it is quicker than all migrations."""
    with database(postgresql) as url:
        upgrade(url.render_as_string(hide_password=False))
        assert url.database is not None
        yield url.database


@pytest.fixture
def newest_database_url(postgresql: URL, _newest: str) -> Iterator[str]:
    """A database of this test's own with the newest schema, which may be downgraded."""
    with database(postgresql, template=_newest) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def world(newest_database_url: str) -> Iterator[World]:
    """The usual world in it."""
    engine = create_engine(newest_database_url, poolclass=pool.NullPool)
    yield make_world(make_sessions(engine))
    engine.dispose()
