"""Start the embedded stack in order, supervise it, and stop it in reverse order. Its commands are those of docker-compose.yml."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from connectors.storage import Location
from expunge.errors import StackError, StartFailed
from expunge.operator.deployment import describe_away, open_database, parse_storage, read_key
from expunge.operator.keys import ensure_first_api_key, ensure_signing_key
from expunge.stack.broker import broker, free_port
from expunge.stack.folder import Folder, StackSettings, lock_folder, sample_key, write_stack_settings
from expunge.stack.postgres import postgres
from expunge.stack.process import Child, Program, await_ready, rotate, start, stop, tail
from ledger.db import DATABASE_AWAY
from ledger.errors import WrongSampleKey
from ledger.sample_key import check_sample_key
from migrations.commands import upgrade

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop the stack: Ctrl-C, a supervisor's or `kill`'s, and the terminal's closing."""

MAX_RESTARTS = 5
"""How often one part is restarted within RESTART_WINDOW before the stack stops."""

RESTART_WINDOW = 600.0
"""Seconds after which a restart no longer counts: a part that ends once a day never stops the stack."""

DEFAULTS = {"EXPUNGE_BATCH_WINDOW_SECONDS": "0", "EXPUNGE_SWEEP_SECONDS": "5"}
"""Settings that have another default in the stack than elsewhere: somebody waits for the first jobs."""

OF_A_DEPLOYMENT = (
    "EXPUNGE_",
    "DATABASE_URL",
    "REDIS_URL",
    "CELERY_",
    "UVICORN_",
    "WEB_CONCURRENCY",
    "PROMETHEUS_MULTIPROC_DIR",
    "OTEL_",
)
"""What the names of variables begin with that say where a deployment is, and how its programs run."""

CHECK_INTERVAL = 0.5
"""Seconds between two checks whether a part has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to start the stack."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int | None = None
    """The API's port; None: 8000, or a free one if it is taken."""
    database_url: str | None = field(default=None, repr=False)
    """A PostgreSQL server to use instead of starting one."""
    redis_url: str | None = field(default=None, repr=False)
    """A Redis server to use instead of starting one."""
    storage: Location | None = None
    """Where weights go instead of the data folder."""
    sample_key: str | None = field(default=None, repr=False)
    """The key for sample IDs to use instead of the data folder's."""
    signing_keys: Path | None = None
    """The folder of private signing keys to use instead of the data folder's."""
    workloads: str = "examples"
    """The allow-list of workloads: prefixes of modules, separated by commas."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further settings for the API, the worker and the beat. They override the stack's."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack."""

    folder: Folder
    settings: StackSettings
    api_key: str | None = field(repr=False)
    """The key that the first start creates, None at later starts. Only its hash is stored."""
    children: list[Child]

    @property
    def url(self) -> str:
        """The API's address."""
        return self.settings.api_url


def options_from_environment(*, data_dir: Path, host: str, port: int | None = None) -> Options:
    """Read all that the environment decides about the stack; what its programs alone read, they inherit. Raises StackError."""
    given = os.environ.get
    storage = parse_storage(location) if (location := given("EXPUNGE_STORAGE")) else None
    signing_keys = given("EXPUNGE_SIGNING_KEYS")
    if sample_key := given("EXPUNGE_SAMPLE_KEY"):
        read_key(sample_key)
    return Options(
        data_dir=data_dir,
        host=host,
        port=port,
        database_url=given("DATABASE_URL") or None,
        redis_url=given("REDIS_URL") or None,
        storage=storage.absolute() if isinstance(storage, Path) else storage,
        sample_key=sample_key or None,
        signing_keys=Path(signing_keys).absolute() if signing_keys else None,
        workloads=given("EXPUNGE_WORKLOADS") or "examples",
        environment={name: value for name in DEFAULTS if (value := given(name))},
    )


@contextmanager
def alone() -> Iterator[None]:
    """Take every deployment out of the environment, for what runs within and for the processes that it starts.

    A stack and commands that belong together, such as those of the demo, then neither read nor reach another database, broker,
    storage, key, connected system or collector of traces that the caller's environment names.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith(OF_A_DEPLOYMENT) and name != "EXPUNGE_DEVICE":
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def run_stack(options: Options, *, on_step: Callable[[str], None] = lambda part: None) -> Iterator[Stack]:
    """Start everything, yield the running stack, and stop everything at the end, also after an error or a stop signal.

    on_step: called with the name of each part before it starts. Raises StackError (FolderInUse, StartFailed).
    """
    with lock_folder(options.data_dir) as folder, interruptible(), ExitStack() as open_parts:
        children: list[Child] = []
        databases: list[Program] = []
        database_url, redis_url = options.database_url, options.redis_url
        if database_url is None:
            on_step("PostgreSQL")
            program, database_url = open_parts.enter_context(postgres(folder))
            databases.append(program)
        if redis_url is None:
            on_step("the broker")
            program, redis_url = broker(folder)
            databases.append(program)
        open_parts.callback(stop_all, children)  # Before the socket's folder is removed.
        start_all(databases, children)

        port = options.port if options.port is not None else preferred_port(options.host)
        signing_keys = options.signing_keys or folder.signing_keys
        settings = StackSettings(
            api_url=f"http://{options.host}:{port}",
            database_url=database_url,
            redis_url=redis_url,
            storage=str(options.storage or folder.weights),
            workloads=options.workloads,
            signing_keys=str(signing_keys),
            sample_key=options.sample_key,
        )
        environment = service_environment(folder, settings, options.environment)
        on_step("the migrations")
        migrate(database_url)
        if options.sample_key is not None:
            check_key(database_url, options.sample_key)
        ensure_signing_key(database_url, signing_keys)
        on_step("the API, a worker and the beat")
        start_all(
            [
                worker(folder, {**environment, "EXPUNGE_SIGNING_KEYS": str(signing_keys)}),
                beat(folder, environment),
                api(folder, environment, host=options.host, port=port),
            ],
            children,
        )
        # Last, so that an interrupted start creates no key that nobody has seen.
        key = ensure_first_api_key(database_url)
        write_stack_settings(folder, settings)
        yield Stack(folder, settings, key, children)


@contextmanager
def run_database(data_dir: Path) -> Iterator[str]:
    """Run the PostgreSQL of a stopped stack alone, with the newest schema, and yield its URL. Raises StackError."""
    children: list[Child] = []
    with lock_folder(data_dir) as folder, postgres(folder) as (program, url):
        try:
            start_all([program], children)
            migrate(url)
            yield url
        finally:
            stop_all(children)


def service_environment(folder: Folder, settings: StackSettings, more: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of the API, the worker and the beat, without the signing keys, which are the worker's alone."""
    return {
        **DEFAULTS,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "EXPUNGE_SAMPLE_KEY": settings.sample_key or sample_key(folder),
        "EXPUNGE_STORAGE": settings.storage,
        "EXPUNGE_WORKLOADS": settings.workloads,
        "EXPUNGE_PUBLIC_URL": settings.api_url,
        "EXPUNGE_SIGNING_KEYS": "",
        **more,
    }


def start_all(programs: list[Program], children: list[Child]) -> None:
    """Start programs at the same time and wait until all are ready."""
    started = []
    for program in programs:
        started.append(start(program))
        children.append(started[-1])
    for child in started:
        await_ready(child)


def stop_all(children: list[Child]) -> None:
    """Stop the newest first: the API, then the beat and the worker, then the broker and the database. Ignore stop signals."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        while children:
            stop(children[-1])
            children.pop()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def migrate(database_url: str) -> None:
    """Run the migrations. Raises StartFailed."""
    try:
        upgrade(database_url)
    except DATABASE_AWAY as error:
        raise StartFailed(f"The migrations failed. {describe_away(error)}") from error
    except (SQLAlchemyError, CommandError, ValueError) as error:
        raise StartFailed(f"The migrations failed: {error}") from error


def check_key(database_url: str, key: str) -> None:
    """Check that the ledger is hashed under the key that the environment gives, or not yet. Raises StackError."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        try:
            check_sample_key(session, read_key(key))
        except WrongSampleKey:
            raise StackError(
                "EXPUNGE_SAMPLE_KEY is not the key that the ledger is hashed under. Unset it, and the stack takes the key of its "
                "data folder; after `expunge rotate-sample-key FILE` it is the content of that file."
            ) from None


def supervise(running: Stack, *, on_restart: Callable[[str], None] = lambda text: None) -> None:
    """Restart parts that end and rotate their logs, until a stop signal. Raises StackError if one part ends too often (`Restarts`).

    on_restart: called with a sentence that names the part and its status.
    """
    restarts = Restarts([child.program.name for child in running.children])
    while True:
        time.sleep(CHECK_INTERVAL)
        for index, child in enumerate(running.children):
            with suppress(OSError):  # a full disk must not end the stack
                rotate(child.program.log)
            status = child.process.poll()
            if status is None:
                continue
            restarts.count(child.program.name, at=time.monotonic())
            if restarts.exhausted(child.program.name):
                raise StackError(f"{restarts.describe()} Last status: {status}.{tail(child.program.log)}")
            on_restart(f"{child.program.name} ended with status {status} and is started again.")
            stop(child)  # Kills what is left of its process group.
            running.children[index] = start(child.program)
            try:
                await_ready(running.children[index])
            except StartFailed as error:
                on_restart(str(error))
                stop(running.children[index])  # The next check counts it as ended.


class Restarts:
    """When each part ended, by its name, in the order of their start: one that others need comes first."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._ended: dict[str, list[float]] = {part: [] for part in parts}

    def count(self, part: str, *, at: float) -> None:
        """Count an end of a part, and forget the ends that are older than RESTART_WINDOW. at: seconds of a monotonic clock."""
        self._ended[part].append(at)
        for name, ends in self._ended.items():
            self._ended[name] = [end for end in ends if end > at - RESTART_WINDOW]

    def exhausted(self, part: str) -> bool:
        """Tell whether a part has ended more than MAX_RESTARTS times within the window."""
        return len(self._ended[part]) > MAX_RESTARTS

    def describe(self) -> str:
        """Name the parts that ended within the window, and how often each did. The first may be the cause of the others."""
        counted = [f"{part} ended {len(ends)} times" for part, ends in self._ended.items() if ends]
        return f"Within {RESTART_WINDOW / 60:g} minutes {', '.join(counted)}; the stack stops."


def preferred_port(host: str, preferred: int = 8000) -> int:
    """Return the preferred port if nothing listens on it, else a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, preferred))
        except OSError:
            return free_port()
    return preferred


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGINT, SIGTERM and SIGHUP. A shell's background job would ignore SIGINT otherwise.

    A further signal while the first one's KeyboardInterrupt is handled does nothing: a terminal that closes sends two.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not isinstance(sys.exception(), KeyboardInterrupt):
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Lets torch's threads sleep while they wait for each other. By default they spin; on a machine that also runs the rest of the
stack, small networks then train four to ten times slower (measured on 2 cores under load: 17.3 s against 2.7 s).
"""


def api(folder: Folder, environment: Mapping[str, str], *, host: str, port: int) -> Program:
    """Return the program that serves the HTTP API. It is ready when `/readyz` answers 200."""

    def ready() -> bool:
        try:
            return httpx.get(f"http://{host}:{port}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return Program(
        name="the API",
        command=(
            *(sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory"),
            *("--host", host, "--port", str(port), "--timeout-graceful-shutdown", "5", "--no-server-header"),
            *("--http", "service.http.connections:Connection"),
        ),
        log=folder.logs / "api.log",
        ready=ready,
        environment=environment,
    )


def worker(folder: Folder, environment: Mapping[str, str]) -> Program:
    """Return the program that runs jobs, one at a time in one child process. Only it gets the folder of signing keys."""
    return celery(
        "the worker",
        folder,
        {**PASSIVE, **environment},
        log=folder.logs / "worker.log",
        arguments=("worker", "--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle"),
    )


def beat(folder: Folder, environment: Mapping[str, str]) -> Program:
    """Return the program that sweeps, relays wake-ups and delivers webhooks."""
    schedule = folder.run / "beat.schedule"
    return celery(
        "the beat",
        folder,
        environment,
        log=folder.logs / "beat.log",
        arguments=("beat", "--schedule", str(schedule), "--pidfile="),
    )


def celery(
    name: str, folder: Folder, environment: Mapping[str, str], *, log: Path, arguments: tuple[str, ...]
) -> Program:
    """Return a Celery program. It is ready when it has created the file that EXPUNGE_READY_FILE names."""
    ready_file = folder.run / f"{log.stem}.ready"
    return Program(
        name=name,
        command=(*CELERY, *arguments, "--loglevel", "INFO"),
        log=log,
        ready=ready_file,
        environment={**environment, "EXPUNGE_READY_FILE": str(ready_file)},
    )
