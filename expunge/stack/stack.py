"""The whole stack, up and down: started in order, each part waited for, stopped in the reverse order."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from expunge.errors import StackError, StartFailed
from expunge.operator.keys import first_key, first_signing_key
from expunge.stack.broker import broker, free_port
from expunge.stack.folder import Folder, Settings, occupied, remember, sample_key
from expunge.stack.postgres import postgres
from expunge.stack.process import Child, Program, await_ready, start, stop, tail
from expunge.stack.services import api, beat, worker
from migrations.commands import upgrade

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal, its closing, a supervisor and `kill` send to end the stack."""

RESTARTS = 5
"""How often one part is started again before the stack gives up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to start the stack."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int | None = None
    """The API's port; None: 8000, or a free one where that is taken."""
    database_url: str | None = field(default=None, repr=False)
    """A PostgreSQL server to use instead of starting one."""
    redis_url: str | None = field(default=None, repr=False)
    """A Redis server to use instead of starting one."""
    workloads: str = "examples"
    """Comma-separated prefixes of modules from which workloads may come."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further settings for the API, the worker and the beat; they win over the defaults here."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that runs."""

    folder: Folder
    settings: Settings
    api_key: str | None = field(repr=False)
    """The key made at the first start, None at every later one. It is stored nowhere in clear."""
    children: list[Child]

    @property
    def url(self) -> str:
        """The API's address."""
        return self.settings.api_url


def from_environment(*, data_dir: Path, port: int | None = None, **more: str) -> Options:
    """Take `DATABASE_URL`, `REDIS_URL` and `EXPUNGE_WORKLOADS` from the environment."""
    return Options(
        data_dir=data_dir,
        port=port,
        database_url=os.environ.get("DATABASE_URL") or None,
        redis_url=os.environ.get("REDIS_URL") or None,
        workloads=os.environ.get("EXPUNGE_WORKLOADS") or "examples",
        environment=more,
    )


@contextmanager
def stack(options: Options, *, say: Callable[[str], None] = lambda name: None) -> Iterator[Stack]:
    """Start everything, give the running stack, and stop everything, whatever happens inside.

    `say` is told the name of each part before it starts. Raises StackError (FolderInUse, StartFailed).
    """
    with occupied(options.data_dir) as folder, interruptible(), ExitStack() as open_parts:
        children: list[Child] = []
        databases: list[Program] = []
        database_url, redis_url = options.database_url, options.redis_url
        if database_url is None:
            say("PostgreSQL")
            program, database_url = open_parts.enter_context(postgres(folder))
            databases.append(program)
        if redis_url is None:
            say("the broker")
            program, redis_url = broker(folder)
            databases.append(program)
        open_parts.callback(stop_all, children)  # Before the socket's folder goes.
        bring_up(databases, children)

        port = options.port if options.port is not None else preferred_port(options.host)
        settings = Settings(
            api_url=f"http://{options.host}:{port}",
            database_url=database_url,
            redis_url=redis_url,
            storage=str(folder.weights),
            workloads=options.workloads,
        )
        environment = service_environment(folder, settings, options.environment)
        say("the migrations")
        migrate(database_url)
        first_signing_key(database_url, folder.signing_keys)
        say("the API, a worker and the beat")
        bring_up(
            [
                worker(folder, environment),
                beat(folder, environment),
                api(folder, environment, host=options.host, port=port),
            ],
            children,
        )
        key = first_key(database_url)  # Last, so that an interrupted start makes no key that nobody was shown.
        remember(folder, settings)
        yield Stack(folder, settings, key, children)


def service_environment(folder: Folder, settings: Settings, more: Mapping[str, str]) -> dict[str, str]:
    """Build what the API, the worker and the beat read their settings from."""
    return {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "EXPUNGE_SAMPLE_KEY": sample_key(folder),
        "EXPUNGE_STORAGE": settings.storage,
        "EXPUNGE_WORKLOADS": settings.workloads,
        "EXPUNGE_PUBLIC_URL": settings.api_url,
        "EXPUNGE_BATCH_WINDOW_SECONDS": os.environ.get("EXPUNGE_BATCH_WINDOW_SECONDS", "0"),
        "EXPUNGE_SWEEP_SECONDS": os.environ.get("EXPUNGE_SWEEP_SECONDS", "5"),
        **more,
    }


def bring_up(programs: list[Program], children: list[Child]) -> None:
    """Start programs side by side and wait until all are ready."""
    started = []
    for program in programs:
        started.append(start(program))
        children.append(started[-1])
    for child in started:
        await_ready(child)


def stop_all(children: list[Child]) -> None:
    """Stop the newest first: the API takes no more requests, then beat and worker, then broker and database."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
    try:
        while children:
            stop(children[-1])
            children.pop()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def migrate(database_url: str) -> None:
    """Bring the database to the newest schema. Raises StartFailed."""
    try:
        upgrade(database_url)
    except (SQLAlchemyError, CommandError) as error:
        raise StartFailed(f"The database's schema could not be brought up to date: {error}") from error


def supervise(running: Stack, *, say: Callable[[str], None] = lambda name: None) -> None:
    """Watch until interrupted; a part that ends is started again, a bounded number of times, then StackError."""
    restarts = 0
    while True:
        time.sleep(0.5)
        for place, child in enumerate(running.children):
            status = child.process.poll()
            if status is None:
                continue
            restarts += 1
            if restarts > RESTARTS:
                raise StackError(f"{child.program.name} keeps ending (status {status}).{tail(child.program.log)}")
            say(f"{child.program.name} ended with status {status} and is started again")
            stop(child)  # What is left of its group.
            running.children[place] = start(child.program)
            await_ready(running.children[place])


def preferred_port(host: str, preferred: int = 8000) -> int:
    """Take the preferred port where nothing listens on it, else a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, preferred))
        except OSError:
            return free_port()
    return preferred


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does; and Ctrl-C too, which a shell's background job ignores.

    A second signal does not end the unwinding that the first began: a terminal that closes sends two.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not isinstance(sys.exception(), KeyboardInterrupt):
            raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
