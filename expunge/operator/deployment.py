"""Find the deployment that a command works on: its database, storage, keys and allow-list of workloads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from connectors.settings import open_storage
from connectors.storage import Location, Storage, parse_location
from expunge.errors import StackError
from expunge.stack.folder import Folder, default_folder, read_stack_settings
from ledger.db import make_engine, make_sessions
from ledger.errors import WrongSampleKey
from ledger.sample_ids import parse_sample_key
from ledger.sample_key import check_sample_key


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentSettings:
    """What is known of a deployment. None marks a setting that is missing."""

    database_url: str | None = field(repr=False)
    redis_url: str | None = field(repr=False)
    storage: Location | None
    sample_key: str | None = field(repr=False)
    signing_keys: Path | None
    workloads: str
    storage_cache: Path | None = None
    model_signing_key: Path | None = None

    @property
    def files(self) -> Storage | None:
        """The storage of weights and reference predictions."""
        return None if self.storage is None else open_storage(self.storage, cache=self.storage_cache)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What registration and retention need: the database, the storage of weights, the key for sample IDs, the allow-list."""

    database_url: str = field(repr=False)
    storage: Location
    sample_key: bytes = field(repr=False)
    workloads: str
    storage_cache: Path | None = None

    @property
    def files(self) -> Storage:
        """The storage of weights and reference predictions."""
        return open_storage(self.storage, cache=self.storage_cache)


def read_deployment_settings(data_dir: Path | None = None) -> DeploymentSettings:
    """Read the environment, and for what it does not set the stack that runs on `data_dir`. Raises StackError.

    data_dir: by default `default_folder()`.
    """
    data_dir = data_dir or default_folder()
    running, folder = read_stack_settings(data_dir), Folder(data_dir)
    sample_key = folder.sample_key.read_text().strip() if running and folder.sample_key.exists() else None
    storage = os.environ.get("EXPUNGE_STORAGE") or (running.storage if running else None)
    signing_keys = os.environ.get("EXPUNGE_SIGNING_KEYS") or (folder.signing_keys if running else None)
    return DeploymentSettings(
        database_url=os.environ.get("DATABASE_URL") or (running.database_url if running else None),
        redis_url=os.environ.get("REDIS_URL") or (running.redis_url if running else None),
        storage=_parse_storage(storage) if storage else None,
        storage_cache=Path(cache) if (cache := os.environ.get("EXPUNGE_STORAGE_CACHE")) else None,
        sample_key=os.environ.get("EXPUNGE_SAMPLE_KEY") or sample_key,
        signing_keys=Path(signing_keys) if signing_keys else None,
        model_signing_key=Path(key) if (key := os.environ.get("EXPUNGE_MODEL_SIGNING_KEY")) else None,
        workloads=os.environ.get("EXPUNGE_WORKLOADS") or (running.workloads if running else "examples"),
    )


def _parse_storage(value: str) -> Location:
    try:
        return parse_location(value)
    except ValueError as error:
        raise StackError(f"EXPUNGE_STORAGE {error}.") from None


def find_deployment(data_dir: Path | None = None) -> Deployment:
    """Find the deployment by the environment or by the stack that runs on `data_dir`.

    data_dir: by default `default_folder()`.
    Raises StackError if the database, the storage or the sample key is unknown, or if the sample key is malformed.
    """
    found = read_deployment_settings(data_dir)
    if found.database_url is None or found.storage is None or found.sample_key is None:
        raise StackError(
            f"No stack runs on {data_dir or default_folder()}. Start one with `expunge up`, name its data folder with --data-dir, "
            "or set DATABASE_URL, EXPUNGE_STORAGE and EXPUNGE_SAMPLE_KEY."
        )
    try:
        sample_key = parse_sample_key(found.sample_key)
    except ValueError as error:
        raise StackError(f"EXPUNGE_SAMPLE_KEY {error}.") from None
    return Deployment(
        database_url=found.database_url,
        storage=found.storage,
        sample_key=sample_key,
        workloads=found.workloads,
        storage_cache=found.storage_cache,
    )


@contextmanager
def open_ledger(deployment: Deployment) -> Iterator[Session]:
    """Yield a transaction on the ledger, which is under the deployment's sample key until it ends. Raises StackError if not."""
    with open_database(deployment.database_url) as sessions, sessions.begin() as session:
        try:
            check_sample_key(session, deployment.sample_key)
        except WrongSampleKey as error:
            raise StackError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        yield session


@contextmanager
def open_database(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Yield sessions on the database; close every connection at the end. Raises StackError if its schema is not this release's."""
    engine = make_engine(database_url, pool_size=1)
    try:
        yield make_sessions(engine)
    except ProgrammingError as error:
        if not isinstance(error.orig, UndefinedTable | UndefinedColumn):
            raise
        raise StackError(
            "The database does not have the schema of this release: run `alembic upgrade head`, and `expunge doctor` after it. "
            "`expunge up` migrates its own database when it starts."
        ) from None
    finally:
        engine.dispose()
