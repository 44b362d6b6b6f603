"""Find the deployment that a command works on: its database, storage, keys and allow-list of workloads."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path

from psycopg.errors import InFailedSqlTransaction, UndefinedColumn, UndefinedTable
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from connectors.settings import open_storage
from connectors.storage import Location, Storage, parse_location
from expunge.errors import StackError
from expunge.stack.folder import Folder, default_folder, read_sample_key, read_stack_settings
from ledger.db import DATABASE_AWAY, make_engine, make_sessions
from ledger.errors import WrongSampleKey
from ledger.sample_ids import parse_sample_key
from ledger.sample_key import check_sample_key


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentSettings:
    """What is known of a deployment. None marks a setting that is missing.

    key_file: where the stack that runs here has a sample key of its own; None if the environment gives it.
    """

    database_url: str | None = field(repr=False)
    redis_url: str | None = field(repr=False)
    storage: Location | None
    sample_key: str | None = field(repr=False)
    signing_keys: Path | None
    workloads: str
    storage_cache: Path | None = None
    model_signing_key: Path | None = None
    key_file: Path | None = None

    @property
    def files(self) -> Storage | None:
        """The storage of weights and reference predictions."""
        return None if self.storage is None else _open_files(self.storage, self.storage_cache)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What registration and retention need: the database, the storage of weights, the key for sample IDs, the allow-list.

    key_file: see DeploymentSettings.
    """

    database_url: str = field(repr=False)
    storage: Location
    sample_key: bytes = field(repr=False)
    workloads: str
    storage_cache: Path | None = None
    key_file: Path | None = None

    @property
    def files(self) -> Storage:
        """The storage of weights and reference predictions."""
        return _open_files(self.storage, self.storage_cache)


@once
def _open_files(location: Location, cache: Path | None) -> Storage:
    """Open the storage for a command. The copies that the command makes on this machine are deleted when its process ends."""
    storage = open_storage(location, cache=cache)
    atexit.register(storage.delete_own_copies)
    return storage


def read_deployment_settings(data_dir: Path | None = None) -> DeploymentSettings:
    """Read the environment, and for what it does not set the stack that runs on `data_dir`.

    data_dir: by default `default_folder()`. If DATABASE_URL is not the running stack's, the environment names another deployment,
    and nothing is taken from the stack. Raises StackError; also if that is so and a folder is given, and if the environment names
    another storage, sample key or folder of signing keys than the stack has.
    """
    root = data_dir or default_folder()
    running = read_stack_settings(root)
    if running is not None and not _agrees("DATABASE_URL", running.database_url, str.__eq__):
        if data_dir is not None:
            raise _contradiction("DATABASE_URL", root)
        running = None
    own_key = None if running is None else read_sample_key(root, running)
    own_folder = None if running is None else running.signing_keys or str(Folder(root).signing_keys)
    for name, stacks, same in (
        ("EXPUNGE_STORAGE", running.storage if running else None, is_same_storage),
        ("EXPUNGE_SAMPLE_KEY", own_key, _continues),
        ("EXPUNGE_SIGNING_KEYS", own_folder, _is_same_folder),
    ):
        if not _agrees(name, stacks, same):
            raise _contradiction(name, root)
    given = os.environ.get
    storage = given("EXPUNGE_STORAGE") or (running.storage if running else None)
    signing_keys = given("EXPUNGE_SIGNING_KEYS") or own_folder
    is_own = running is not None and running.sample_key is None and not given("EXPUNGE_SAMPLE_KEY")
    return DeploymentSettings(
        database_url=given("DATABASE_URL") or (running.database_url if running else None),
        redis_url=given("REDIS_URL") or (running.redis_url if running else None),
        storage=parse_storage(storage) if storage else None,
        storage_cache=Path(cache) if (cache := given("EXPUNGE_STORAGE_CACHE")) else None,
        sample_key=given("EXPUNGE_SAMPLE_KEY") or own_key,
        signing_keys=Path(signing_keys) if signing_keys else None,
        model_signing_key=Path(key) if (key := given("EXPUNGE_MODEL_SIGNING_KEY")) else None,
        workloads=given("EXPUNGE_WORKLOADS") or (running.workloads if running else "examples"),
        key_file=Folder(root).sample_key if is_own else None,
    )


def _agrees(name: str, stacks: str | None, same: Callable[[str, str], bool]) -> bool:
    """Return whether a variable is unset or the same as what the running stack has, if one runs."""
    given = os.environ.get(name)
    return not given or stacks is None or same(given, stacks)


def is_same_storage(one: str, other: str) -> bool:
    """Return whether two values of EXPUNGE_STORAGE name the same place. Raises StackError."""
    places = (parse_storage(value) for value in (one, other))
    first, second = (place.resolve() if isinstance(place, Path) else place for place in places)
    return first == second


def _is_same_folder(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _continues(one: str, other: str) -> bool:
    """Return whether one key is the other one, perhaps after a rotation that one of the two has not heard of."""
    return one.lower().startswith(other.lower()) or other.lower().startswith(one.lower())


def _contradiction(name: str, root: Path) -> StackError:
    return StackError(
        f"{name} is not what the stack that runs on {root} has. Unset it, or start the stack again with it; for another deployment "
        "than this stack set DATABASE_URL too, and name no data folder."
    )


def parse_storage(value: str) -> Location:
    """Read EXPUNGE_STORAGE. Raises StackError."""
    try:
        return parse_location(value)
    except ValueError as error:
        raise StackError(f"EXPUNGE_STORAGE {error}.") from None


def read_key(value: str) -> bytes:
    """Read EXPUNGE_SAMPLE_KEY. Raises StackError."""
    try:
        return parse_sample_key(value)
    except ValueError as error:
        raise StackError(f"EXPUNGE_SAMPLE_KEY {error}.") from None


def find_deployment(data_dir: Path | None = None) -> Deployment:
    """Find the deployment by the environment or by the stack that runs on `data_dir`.

    data_dir: by default `default_folder()`.
    Raises StackError if the database, the storage or the sample key is unknown, or if the sample key is malformed.
    """
    found = read_deployment_settings(data_dir)
    if found.database_url is None or found.storage is None or found.sample_key is None:
        why = (
            f"No stack runs on {data_dir or default_folder()}."
            if found.database_url is None
            else "DATABASE_URL names no stack that runs here, and the other settings are not all set."
        )
        raise StackError(
            f"{why} Start one with `expunge up`, name its data folder with --data-dir, or set DATABASE_URL, EXPUNGE_STORAGE and "
            "EXPUNGE_SAMPLE_KEY."
        )
    return Deployment(
        database_url=found.database_url,
        storage=found.storage,
        sample_key=read_key(found.sample_key),
        workloads=found.workloads,
        storage_cache=found.storage_cache,
        key_file=found.key_file,
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
    """Yield sessions on the database; close every connection at the end.

    Raises StackError if the URL is wrong, nothing answers, or the schema is not this release's, and for a text of the command line
    that is not in UTF-8.
    """
    try:
        engine = make_engine(database_url, pool_size=1)
    except ValueError as error:
        raise StackError(f"DATABASE_URL: {error}.") from None
    try:
        yield make_sessions(engine)
    except DATABASE_AWAY as error:
        if isinstance(getattr(error, "orig", None), InFailedSqlTransaction):  # ours
            raise
        raise StackError(describe_away(error)) from error
    except ProgrammingError as error:
        if isinstance(error.orig, UndefinedTable | UndefinedColumn):
            raise StackError(
                "The database does not have the schema of this release: run `alembic upgrade head`, and `expunge doctor` after it. "
                "`expunge up` migrates its own database when it starts."
            ) from None
        if error.statement is None:  # before anything was asked of a server: libpq does not know a parameter of the URL
            raise StackError(describe_away(error)) from error
        raise
    except UnicodeEncodeError as error:
        if not "\udc80" <= error.object[error.start] <= "\udcff":  # what Python makes of other bytes of a command line
            raise
        raise StackError("A name or another text that was given is not in UTF-8.") from error
    finally:
        engine.dispose()


def describe_away(error: SQLAlchemyError) -> str:
    """Say in a line why the database cannot be used. It quotes the server, and nothing of the URL, which may hold a password."""
    said = getattr(getattr(getattr(error, "orig", None), "diag", None), "message_primary", None)
    if said:
        return f"The database gave up: {said}. Run the command again, and see the database's log if it does so again."
    return (
        f"The database cannot be used ({type(error).__name__}). Check that it is up, and that DATABASE_URL is right: the address, "
        "the parameters, the user and the password."
    )
