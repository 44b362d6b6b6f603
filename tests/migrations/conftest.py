from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, pool

from ledger.db import make_sessions, normalise_url
from migrations.commands import upgrade
from tests.ledger.conftest import World, make_world


@pytest.fixture
def world(blank_database_url: str) -> Iterator[World]:
    """The usual world in a database of this test's own, whose schema is the newest and may be downgraded."""
    upgrade(blank_database_url)
    engine = create_engine(normalise_url(blank_database_url), poolclass=pool.NullPool)
    yield make_world(make_sessions(engine))
    engine.dispose()
