"""`expunge doctor`: what is wrong with an installation. Each check looks at one thing, and says what would be right."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from expunge.operator.registration import opened
from expunge.stack.folder import Folder, recall
from ledger.jobs.heartbeats import worker_last_seen
from ledger.registry.retention import needed_files
from ledger.sample_ids import parse_sample_key
from ledger.tables import Model
from ledger.transparency.signing_keys import usable_signing_keys
from migrations.commands import newest
from unlearning.storage import file_sha256
from worker.errors import NoSigningKey, WorkerError
from worker.inputs import find_factory
from worker.settings import allow_list
from worker.signing import load_signer

LEAST_SPACE = 1 << 30
"""Bytes that the storage should have free: a few versions' weights and a job's checkpoints."""
MOST_SKEW = 5.0
"""Seconds by which this machine's clock may differ from the database's. Leases are the database's; logs are not."""
WORKER_WITHIN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: fine or not, and in a sentence what, with what would be right where it is not."""

    check: str
    fine: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What an installation is made of, as far as it is known; what is None is a finding of its own."""

    database_url: str | None = field(repr=False)
    redis_url: str | None = field(repr=False)
    storage: Path | None
    sample_key: str | None = field(repr=False)
    signing_keys: Path | None
    workloads: str


def installation(data_dir: Path) -> Installation:
    """Take the environment's settings, else those of the stack that runs on this data folder."""
    running, folder = recall(data_dir), Folder(data_dir)
    key = folder.sample_key
    storage = os.environ.get("EXPUNGE_STORAGE") or (running.storage if running else None)
    signing_keys = os.environ.get("EXPUNGE_SIGNING_KEYS") or (folder.signing_keys if running else None)
    return Installation(
        database_url=os.environ.get("DATABASE_URL") or (running.database_url if running else None),
        redis_url=os.environ.get("REDIS_URL") or (running.redis_url if running else None),
        storage=Path(storage) if storage else None,
        sample_key=os.environ.get("EXPUNGE_SAMPLE_KEY")
        or (key.read_text().strip() if running and key.exists() else None),
        signing_keys=Path(signing_keys) if signing_keys else None,
        workloads=os.environ.get("EXPUNGE_WORKLOADS") or (running.workloads if running else "examples"),
    )


def examine(of: Installation) -> Iterator[Finding]:
    """Make every check that can be made; what needs the database is left out while it does not answer."""
    yield check_sample_key(of.sample_key)
    yield check_broker(of.redis_url)
    yield check_storage(of.storage)
    if of.database_url is None:
        yield Finding("database", False, "DATABASE_URL is not set, and no stack runs on the data folder (--data-dir).")
        return
    with opened(of.database_url) as sessions:
        reached = check_database(sessions)
        yield reached
        if not reached.fine:
            return
        migrated = check_schema(sessions)
        yield migrated
        yield check_clock(sessions)
        if not migrated.fine:
            return
        checks: tuple[Callable[[Session], Finding], ...] = (
            check_worker,
            lambda session: check_signing_keys(session, of.signing_keys),
            lambda session: check_weights(session, of.storage),
            lambda session: check_workloads(session, allowed=allow_list(of.workloads)),
        )
        for check in checks:
            with sessions() as session:
                yield check(session)


def check_sample_key(key: str | None) -> Finding:
    """The key under which sample IDs are hashed: without it no sample can be found again."""
    if key is None:
        return Finding("sample key", False, "EXPUNGE_SAMPLE_KEY is not set.")
    try:
        parse_sample_key(key)
    except ValueError as error:
        return Finding("sample key", False, f"EXPUNGE_SAMPLE_KEY {error}.")
    return Finding("sample key", True, "Set.")


def check_broker(url: str | None) -> Finding:
    """Does the broker answer?"""
    if url is None:
        return Finding("broker", False, "REDIS_URL is not set.")
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        return Finding(
            "broker", False, f"It does not answer ({type(error).__name__}): is it up, is the password right?"
        )
    return Finding("broker", True, "It answers.")


def check_storage(storage: Path | None) -> Finding:
    """Can the storage of weights be written to, and is there room?"""
    if storage is None:
        return Finding("storage", False, "EXPUNGE_STORAGE is not set.")
    try:
        with tempfile.NamedTemporaryFile(dir=storage, prefix=".doctor-"):
            free = shutil.disk_usage(storage).free
    except OSError as error:
        return Finding("storage", False, f"{storage} cannot be written to: {error.strerror}.")
    room = f"{free / 1e9:.1f} GB free"
    if free < LEAST_SPACE:
        return Finding("storage", False, f"{room} in {storage}: make room, `expunge purge` may help.")
    return Finding("storage", True, f"Writable, {room}.")


def check_database(sessions: sessionmaker[Session]) -> Finding:
    """Does PostgreSQL answer?"""
    try:
        with sessions() as session:
            version = session.scalar(text("SHOW server_version"))
    except (SQLAlchemyError, ValueError) as error:
        return Finding(
            "database", False, f"It does not answer ({type(error).__name__}): is it up, is DATABASE_URL right?"
        )
    return Finding("database", True, f"PostgreSQL {version} answers.")


def check_schema(sessions: sessionmaker[Session]) -> Finding:
    """Is the schema the one that this code was written for?"""
    with sessions() as session:
        made = session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        found = session.scalar(text("SELECT version_num FROM alembic_version")) if made else None
    wanted = newest()
    right = found == wanted
    told = (
        f"Revision {found}." if right else f"Revision {found or 'none'}, this code needs {wanted}: run the migrations."
    )
    return Finding("schema", right, told)


def check_clock(sessions: sessionmaker[Session]) -> Finding:
    """Do this machine and the database agree on the time?"""
    with sessions() as session:
        before = datetime.now(UTC)
        there: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        middle = before + (datetime.now(UTC) - before) / 2
    skew = (there - middle).total_seconds()
    right = abs(skew) <= MOST_SKEW
    return Finding("clock", right, f"{abs(skew):.1f} s {'before' if skew > 0 else 'behind'} here at the database.")


def check_worker(session: Session) -> Finding:
    """Has a worker given a sign of life lately?"""
    seen = worker_last_seen(session)
    if seen is None:
        return Finding("worker", False, "None has ever swept: start a worker and the beat.")
    ago = session.execute(text("SELECT clock_timestamp()")).scalar_one() - seen
    told = f"Last seen {ago.total_seconds():.0f} s ago"
    if ago > WORKER_WITHIN:
        return Finding("worker", False, f"{told}: is the worker up, is the beat?")
    return Finding("worker", True, f"{told}.")


def check_signing_keys(session: Session, folder: Path | None) -> Finding:
    """Is there a key to sign with: registered and not revoked, its private half here and readable for its owner alone?"""
    usable = usable_signing_keys(session)
    if folder is None:
        told = "EXPUNGE_SIGNING_KEYS is not set: results are not signed"
        return Finding("signing keys", not usable, f"{told}, though keys are registered." if usable else f"{told}.")
    try:
        signs = load_signer(folder, usable).key_id
    except NoSigningKey as error:
        return Finding("signing keys", False, str(error))
    newer = "" if signs == usable[0] else f"; the newest, {usable[0][:16]}, is not in {folder}"
    return Finding("signing keys", True, f"{signs[:16]} signs{newer}.")


def check_weights(session: Session, storage: Path | None) -> Finding:
    """Is every version's file there, and is it the one that was recorded?"""
    if storage is None:
        return Finding("weights", False, "They cannot be looked for without EXPUNGE_STORAGE.")
    names = needed_files(session)
    missing = [name for name in sorted(names) if not (storage / name).is_file()]
    damaged = [name for name in sorted(names - {*missing}) if file_sha256(storage / name) != Path(name).stem]
    if missing or damaged:
        told = [
            f"{len(files)} {what} ({files[0]})" for what, files in (("missing", missing), ("damaged", damaged)) if files
        ]
        return Finding("weights", False, f"{' and '.join(told)} in {storage}: restore them from a backup.")
    return Finding("weights", True, f"{len(names)} as recorded.")


def check_workloads(session: Session, *, allowed: tuple[str, ...]) -> Finding:
    """Can the code of every model be imported? The factories are not called."""
    references = sorted(set(session.scalars(select(Model.workload))))
    for reference in references:
        try:
            find_factory(reference, allowed=allowed)
        except WorkerError as error:
            return Finding("workloads", False, str(error))
    return Finding("workloads", True, f"{len(references)} can be imported.")
