"""Check a deployment: every check concerns one thing and says what to do if it is wrong."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import redis
from sqlalchemy import exists, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from connectors.model_signing import InvalidModelKey, read_model_key
from connectors.storage import Storage, StorageError
from expunge.errors import StackError, explain
from expunge.operator.deployment import DeploymentSettings, open_database
from expunge.operator.workloads import choose_device, find_faults
from ledger.db import LimitedConnection, now
from ledger.errors import LogForked
from ledger.jobs.workers import worker_last_seen
from ledger.registry.retention import needed_files
from ledger.sample_ids import key_fingerprint, parse_sample_key
from ledger.sample_key import read_fingerprint
from ledger.states import LEASED
from ledger.tables import Job, Model, ModelVersion
from ledger.transparency.log import check_continues
from ledger.transparency.signing_keys import usable_signing_keys
from migrations.commands import newest
from report.formatting import plural
from unlearning.errors import UnlearningError, WeightsDamaged, WeightsMissing
from unlearning.files import file_sha256
from unlearning.specs import parse
from worker.failures import NoSigningKey, WorkerError
from worker.inputs import find_factory, load_model, load_workload
from worker.settings import allow_list
from worker.signing import load_signer, read_last_signed

MIN_FREE_BYTES = 1 << 30
"""Free space that the storage should have: room for a few versions' weights and a job's training checkpoints."""
MAX_CLOCK_SKEW = 5.0
"""Seconds by which this machine's clock may differ from the database's. Leases use the database's clock, logs this machine's."""
MAX_WORKER_SILENCE = timedelta(minutes=5)
MAX_MODEL_CHECK = timedelta(minutes=15)
"""How long a worker without a job may take to find out whether it can build a model."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. text: sentences; if not ok they say what to do."""

    check: str
    ok: bool
    text: str


def examine(settings: DeploymentSettings) -> Iterator[CheckResult]:
    """Run every check. If the database does not answer or lacks migrations, skip the checks that need it."""
    yield check_sample_key(settings.sample_key)
    yield check_broker(settings.redis_url)
    yield check_storage(settings)
    if settings.database_url is None:
        yield CheckResult(
            "database", False, "DATABASE_URL is not set, and no stack runs on the data folder (--data-dir)."
        )
        return
    with ExitStack() as stack:
        try:
            sessions = stack.enter_context(open_database(settings.database_url))
        except StackError as error:
            yield CheckResult("database", False, str(error))
            return
        reached = check_database(sessions)
        yield reached
        if not reached.ok:
            return
        migrated = check_schema(sessions)
        yield migrated
        yield check_clock(sessions)
        if not migrated.ok:
            return
        checks: tuple[Callable[[Session], CheckResult], ...] = (
            partial(check_ledger_key, key=settings.sample_key),
            check_worker,
            lambda session: check_signing_keys(session, settings.signing_keys),
            lambda session: check_log(session, settings.signing_keys),
            lambda session: check_weights(session, settings.files),
            lambda session: check_workloads(session, allowed=allow_list(settings.workloads)),
        )
        for check in checks:
            with sessions() as session:
                yield check(session)
        if settings.model_signing_key is not None:
            yield check_model_signing_key(settings.model_signing_key)
        yield from check_models(sessions, storage=settings.files, allowed=allow_list(settings.workloads))
        yield from check_models_at_worker(sessions)


def check_sample_key(key: str | None) -> CheckResult:
    """Check that the key for hashing sample IDs is set and well formed."""
    if key is None:
        return CheckResult("sample key", False, "EXPUNGE_SAMPLE_KEY is not set.")
    try:
        parse_sample_key(key)
    except ValueError as error:
        return CheckResult("sample key", False, f"EXPUNGE_SAMPLE_KEY {error}.")
    return CheckResult("sample key", True, "Set.")


def check_ledger_key(session: Session, *, key: str | None) -> CheckResult:
    """Check that the ledger is hashed under the sample key, if there is a good one."""
    try:
        mine = key_fingerprint(parse_sample_key(key or ""))
    except ValueError:
        return CheckResult("ledger's key", True, "Not compared.")
    if (known := read_fingerprint(session)) in (None, mine):
        return CheckResult(
            "ledger's key", True, "Hashed under EXPUNGE_SAMPLE_KEY." if known else "Nothing is hashed yet."
        )
    return CheckResult(
        "ledger's key",
        False,
        "The ledger is hashed under another key than EXPUNGE_SAMPLE_KEY. After `expunge rotate-sample-key` the setting is the "
        "content of its key file; run the command again if it was interrupted.",
    )


def check_broker(url: str | None) -> CheckResult:
    """Check that the message broker answers."""
    if url is None:
        return CheckResult("broker", False, "REDIS_URL is not set.")
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        return CheckResult(
            "broker",
            False,
            f"It does not answer ({type(error).__name__}). Check that it is up and that the password in REDIS_URL is right.",
        )
    return CheckResult("broker", True, "It answers.")


def check_storage(settings: DeploymentSettings) -> CheckResult:
    """Check that the storage of weights is writable and has free space."""
    where, storage = settings.storage, settings.files
    if storage is None:
        return CheckResult("storage", False, "EXPUNGE_STORAGE is not set.")
    try:
        found, room = storage.check(), storage.free_bytes()
    except StorageError as error:
        return CheckResult("storage", False, str(error))
    except OSError as error:
        return CheckResult("storage", False, f"{where} cannot be written to. {explain(error)}")
    if room is None:
        return CheckResult("storage", True, f"{where}: {found}.")
    free = f"{room[0] / 1e9:.1f} GB free"
    if room[0] < MIN_FREE_BYTES:
        return CheckResult("storage", False, f"{free} in {where}. Make room; `expunge purge` may help.")
    return CheckResult("storage", True, f"{found}, {free}.")


def check_database(sessions: sessionmaker[Session]) -> CheckResult:
    """Check that PostgreSQL answers."""
    try:
        with sessions() as session:
            version = session.scalar(text("SHOW server_version"))
            driver = session.connection().connection.driver_connection
            pooled = (
                " through a connection pooler" if isinstance(driver, LimitedConnection) and driver.is_pooled else ""
            )
    except (SQLAlchemyError, ValueError) as error:
        return CheckResult(
            "database",
            False,
            f"It does not answer ({type(error).__name__}). Check that it is up and that DATABASE_URL is right.",
        )
    return CheckResult("database", True, f"PostgreSQL {version} answers{pooled}.")


def check_schema(sessions: sessionmaker[Session]) -> CheckResult:
    """Check that the schema is at the newest migration."""
    with sessions() as session:
        made = session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        found = session.scalar(text("SELECT version_num FROM alembic_version")) if made else None
    wanted = newest()
    if found != wanted:
        return CheckResult(
            "schema", False, f"Revision {found or 'none'}; this code needs {wanted}. Run the migrations."
        )
    return CheckResult("schema", True, f"Revision {found}.")


def check_clock(sessions: sessionmaker[Session]) -> CheckResult:
    """Check that this machine's clock agrees with the database's."""
    with sessions() as session:
        before = datetime.now(UTC)
        there: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        middle = before + (datetime.now(UTC) - before) / 2
    skew = (there - middle).total_seconds()
    ahead = "ahead of" if skew > 0 else "behind"
    return CheckResult(
        "clock", abs(skew) <= MAX_CLOCK_SKEW, f"The database's clock is {abs(skew):.1f} s {ahead} this machine's."
    )


def check_worker(session: Session) -> CheckResult:
    """Check that a worker was seen lately."""
    seen = worker_last_seen(session)
    if seen is None:
        return CheckResult("worker", False, "No worker was ever seen. Start one.")
    ago = session.execute(text("SELECT clock_timestamp()")).scalar_one() - seen
    seconds = f"Last seen {ago.total_seconds():.0f} s ago."
    if ago > MAX_WORKER_SILENCE:
        return CheckResult("worker", False, f"{seconds} Check that the worker is up.")
    return CheckResult("worker", True, seconds)


def check_signing_keys(session: Session, folder: Path | None) -> CheckResult:
    """Check that a registered, unrevoked signing key has its private half in `folder`, readable by its owner only."""
    usable = usable_signing_keys(session)
    if folder is None:
        registered = " although keys are registered" if usable else ""
        unsigned = f"EXPUNGE_SIGNING_KEYS is not set: results are not signed{registered}."
        return CheckResult("signing keys", not usable, unsigned)
    try:
        signs = load_signer(folder, usable).key_id
    except NoSigningKey as error:
        return CheckResult("signing keys", False, str(error))
    newer = "" if signs == usable[0] else f"; the newest, {usable[0][:16]}, is not in {folder}"
    return CheckResult("signing keys", True, f"{signs[:16]} signs{newer}.")


def check_model_signing_key(path: Path) -> CheckResult:
    """Check that the operator's key that signs weights for other tools can be used."""
    try:
        hint = read_model_key(path).hint
    except InvalidModelKey as error:
        return CheckResult("model signing", False, str(error))
    return CheckResult("model signing", True, f"{hint[:16]} signs.")


def check_log(session: Session, folder: Path | None) -> CheckResult:
    """Check that the log continues what was signed last with the keys of `folder`."""
    if folder is None:
        return CheckResult("log", True, "Not signed.")
    try:
        last = read_last_signed(folder)
        if last is not None:
            check_continues(session, last)
    except LogForked as error:
        return CheckResult("log", False, f"It is not signed any more. {error}")
    signed = (
        "Nothing was signed yet."
        if last is None
        else f"It continues what was signed: {plural(last.size, 'entry', 'entries')}."
    )
    if folder.exists() and not os.access(folder, os.W_OK):
        return CheckResult(
            "log", False, f"{signed} {folder} cannot be written to, so what is signed is not remembered."
        )
    return CheckResult("log", True, signed)


def check_weights(session: Session, storage: Storage | None) -> CheckResult:
    """Check that every version's file of weights is there and has the recorded digest."""
    if storage is None:
        return CheckResult("weights", False, "They cannot be checked while EXPUNGE_STORAGE is not set.")
    names = needed_files(session)
    faulty: dict[str, list[str]] = {}
    try:
        for name in sorted(names):
            fault = _find_fault(storage, name)
            if fault is not None:
                faulty.setdefault(fault, []).append(name)
    except OSError as error:
        return CheckResult("weights", False, explain(error))
    if faulty:
        faults = [f"{len(files)} {what} ({files[0]})" for what, files in sorted(faulty.items(), reverse=True)]
        return CheckResult("weights", False, f"{' and '.join(faults)} in the storage. Restore them from a backup.")
    return CheckResult("weights", True, f"{plural(len(names), 'file')} as recorded.")


def _find_fault(storage: Storage, name: str) -> str | None:
    """Say what is wrong with a file that is named by its digest; None if nothing is. Raises OSError."""
    sha256 = Path(name).stem
    try:
        return None if file_sha256(storage.fetch(name, sha256)) == sha256 else "damaged"
    except (WeightsMissing, FileNotFoundError):
        return "missing"
    except WeightsDamaged:
        return "damaged"


def check_workloads(session: Session, *, allowed: tuple[str, ...]) -> CheckResult:
    """Check that every model's workload can be imported."""
    references = sorted(set(session.scalars(select(Model.workload))))
    for reference in references:
        try:
            find_factory(reference, allowed=allowed)
        except WorkerError as error:
            return CheckResult("workloads", False, str(error))
    return CheckResult("workloads", True, f"{plural(len(references), 'workload')} can be imported.")


def check_models(
    sessions: sessionmaker[Session], *, storage: Storage | None, allowed: tuple[str, ...]
) -> Iterator[CheckResult]:
    """Make a dry run of a job of every model whose factory and weights are there, with its served weights and its policy."""
    with sessions() as session:
        rows = session.execute(
            select(
                *(Model.name, Model.workload, Model.details, Model.policy),
                *(ModelVersion.weights_path, ModelVersion.weights_sha256),
            )
            .join(ModelVersion, ModelVersion.id == Model.served_version_id)
            .order_by(Model.name)
        ).all()
    if storage is None:
        return
    for name, reference, details, policy, path, sha256 in rows:
        notes: list[str] = []
        try:
            find_factory(reference, allowed=allowed)
        except WorkerError:
            continue  # The checks of workloads and weights say so.
        try:
            workload = load_workload(reference, allowed=allowed, details=details)
            model = load_model(workload, storage.fetch(path, sha256), sha256, choose_device(workload))
            methods = [parse(spec) for spec in policy]
            faults = find_faults(workload, model, policy=methods, owned=allowed, tell=notes.append)
        except (WeightsMissing, WeightsDamaged, OSError):
            continue  # another check says so
        except (WorkerError, UnlearningError, StackError) as error:
            faults = [str(error)]
        yield CheckResult(f"model {name}", not faults, "\n".join((faults or ["A dry run of a job passes."]) + notes))


def check_models_at_worker(sessions: sessionmaker[Session]) -> Iterator[CheckResult]:
    """Say what a worker has found out about each model. Its packages, variables and files may be others than this command's."""
    with sessions() as session:
        moment = now(session)
        busy = session.scalar(select(exists().where(Job.state.in_(LEASED))))
        rows = session.execute(
            select(Model.name, Model.check_asked_at, Model.check_ended_at, Model.check_fault).order_by(Model.name)
        ).all()
    for name, asked, ended, fault in rows:
        check = f"model {name}, worker"
        if fault is not None:
            yield CheckResult(
                check, False, f"It cannot build the model. Mend what it was started with, and start it again. {fault}"
            )
        elif ended is not None:
            yield CheckResult(check, True, "It can build the model.")
        elif asked is None or busy or moment - asked < MAX_MODEL_CHECK:
            yield CheckResult(check, True, "No worker has found out yet whether it can build the model.")
        else:
            yield CheckResult(
                check,
                False,
                "It was asked whether it can build the model, and has not said so: its process was ended, or the factory does not "
                "come to an end. See the worker's log, and start it again.",
            )
