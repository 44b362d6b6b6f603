"""A person's e-mail arrives by OpenDSR, and two models forget the person: in MLflow, at MLServer, and everywhere else.

MLflow and MLServer are the real ones, each a process of its own. At the end everything that was written anywhere is searched for
the address.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import numpy as np
import pytest
import redis
from safetensors.numpy import load
from sqlalchemy import URL, create_engine, pool

from expunge import client
from expunge.errors import Refused
from expunge.operator.deployment import Deployment, find_deployment
from expunge.operator.keys import create_api_key
from expunge.operator.registration import register_workload
from expunge.operator.retention import delete_copies, find_copies
from expunge.operator.subjects import import_subjects, read_csv
from expunge.operator.training import train_workload
from expunge.stack.broker import free_port
from expunge.stack.stack import Stack, run_stack
from ledger.db import normalise_url
from tests.end_to_end.conftest import SAMPLES, options
from tests.fixtures.mlflow import MLFLOW, Registry, mlflow_server
from tests.fixtures.model_server import MLSERVER, V2Api, logits, mlserver
from tests.fixtures.opendsr import Controller, controller, verify
from tests.fixtures.postgresql import stored_rows
from tests.fixtures.registration import RETRAINED
from tests.fixtures.servers import answering
from tests.fixtures.waiting import await_that

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.slow,
    pytest.mark.skipif(MLFLOW is None or MLSERVER is None, reason="mlflow and mlserver are not both installed"),
]

PERSON = "Ann.Example@Example.org"
MODELS = {"faces": "tests.worker.digits:workload", "voices": "tests.worker.digits:with_trainer"}
SECRET = "a secret of the whole test"
INPUTS = np.random.default_rng(0).random((5, 64), dtype=np.float32)


@dataclass
class Company:
    """All systems together, and what our webhooks have said."""

    stack: Stack
    http: httpx.Client
    where: Deployment
    registry: Registry
    server: V2Api
    messages: list[str] = field(default_factory=list)

    def receive(self, _method: str, target: str, headers: Message, body: bytes) -> tuple[int, bytes]:
        """Be the endpoint of our webhooks."""
        self.messages.append(f"{target} {dict(headers.items())} {body.decode()}")
        return 204, b""


@pytest.fixture
def company(postgresql: URL, tmp_path: Path) -> Iterator[Company]:
    """Two models of one person's samples, trained, registered, in MLflow under the alias champion, and served by MLServer."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expunge-company-")))
        registry = stack.enter_context(mlflow_server(postgresql, tmp_path))
        server_url = f"http://127.0.0.1:{(port := free_port())}"
        (folder / "secret").write_text(SECRET)
        (folder / "connectors.toml").write_text(
            f'[mlflow]\nkind = "mlflow"\nurl = "{registry.url}"\nwebhook_secret_file = "{folder / "secret"}"\ntimeout = 120\n'
            f'[mlserver]\nkind = "v2"\nurl = "{server_url}"\ntimeout = 120\n'
        )
        chosen = options(folder / "data")
        environment = {**chosen.environment, "EXPUNGE_CONNECTORS": str(folder / "connectors.toml")}
        running = stack.enter_context(run_stack(replace(chosen, environment=environment)))
        assert running.api_key is not None
        where = find_deployment(running.folder.root)
        key = create_api_key(where.database_url, tenant="default", name="mlserver", scopes=["weights:read"])
        server = stack.enter_context(mlserver(tmp_path, expunge=running.url, key=key, models=MODELS, port=port))
        http = stack.enter_context(client.connect(running.url, running.api_key))
        company = Company(running, http, where, registry, server)
        hooks = stack.enter_context(answering(company.receive))
        assert http.post("/webhooks", json={"url": f"{hooks}/hook"}).status_code == 201
        events = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
        url = f"{running.url}/connectors/mlflow/webhook"
        registry.post("webhooks", name="expunge", url=url, secret=SECRET, events=events)
        table = ["user_id,sample_id", *(f"{PERSON.lower()},{sample}" for sample in SAMPLES)]
        for name, reference in MODELS.items():
            weights = train_workload(reference, allowed=("tests",), folder=tmp_path / "weights", plain=True).path
            register_workload(
                where,
                name=name,
                reference=reference,
                weights=weights,
                dataset=name,
                **RETRAINED,
                dry_run=False,
                accept_untrained=True,
            )
            import_subjects(where, dataset=name, rows=read_csv(table))
        await_serving(company, 1)
        yield company


def await_serving(company: Company, version: int) -> None:
    for name in MODELS:
        await_that(lambda name=name: alias(company, name) == str(version), f"version {version} of {name} in MLflow")
        await_that(lambda name=name: company.server.is_ready(name, version), f"version {version} of {name} at MLServer")


def alias(company: Company, name: str) -> str | None:
    found = company.registry.get("registered-models/get", name=name).get("registered_model", {}).get("aliases", ())
    return next((one["version"] for one in found if one["alias"] == "champion"), None)


def submit(company: Company, callback: Controller) -> dict[str, Any]:
    """What the customer data platform sends."""
    asked = {
        "regulation": "gdpr",
        "subject_request_id": str(uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": "2026-01-31T15:00:00Z",
        "subject_identities": [{"identity_type": "email", "identity_value": PERSON, "identity_format": "raw"}],
        "status_callback_urls": [callback.url],
    }
    answer = company.http.post("/opendsr/v2/requests", json=asked)
    assert answer.status_code == 201, answer.text
    return asked


def test_a_person_is_forgotten_by_all_systems_and_no_trace_of_the_address_is_left(company: Company) -> None:
    before = {name: company.http.get(f"/models/{name}/served/weights").content for name in MODELS}
    with controller() as callback:
        asked = submit(company, callback)
        await_that(lambda: callback.statuses[-1:] == ["completed"], "the last callback")
    certificates = company.http.get("/opendsr/v2/certificate.pem").text
    for headers, body in callback.calls:
        verify(certificates, headers["X-OpenDSR-Signature"], body)
    request = next(one for one in client.list_requests(company.http) if one.external_id == asked["subject_request_id"])
    done = client.get_request(company.http, request.id)
    assert [(target.model, target.version) for target in done.targets] == [(name, 2) for name in MODELS]

    await_serving(company, 2)
    for name in MODELS:
        served = company.http.get(f"/models/{name}/served/weights")
        assert served.headers["Expunge-Version"] == "2"
        status, version, found = company.server.predict(name, INPUTS)
        assert (status, version) == (200, "2")
        assert np.allclose(found, logits(load(served.content), INPUTS), atol=1e-4)
        assert not np.allclose(found, logits(load(before[name]), INPUTS), atol=1e-4)
        tagged = company.registry.versions(name)
        assert tagged["2"]["expunge.weights_sha256"] == hashlib.sha256(served.content).hexdigest()
        assert tagged["1"]["expunge.knows_erased"] == "true"

    check_that_the_old_versions_cannot_be_served(company, before)
    check_that_nothing_holds_the_address(company, callback)


def check_that_the_old_versions_cannot_be_served(company: Company, before: Mapping[str, bytes]) -> None:
    for name in MODELS:
        company.registry.post("registered-models/alias", name=name, alias="champion", version="1")
    for name in MODELS:  # MLflow's webhook says so, long before the next poll
        await_that(lambda name=name: alias(company, name) == "2", f"the alias of {name} to be moved back")
        assert company.server.load(name) == 200
        assert not company.server.is_ready(name, 1)
        assert company.server.predict(name, INPUTS, version=1)[0] == 404
        with pytest.raises(Refused, match="still knows"):
            client.promote(company.http, name, 1)
        delete_copies(company.where, find_copies(company.where, model=name))
    old = {hashlib.sha256(content).hexdigest() for content in before.values()}
    for name in MODELS:
        await_that(
            lambda name=name: set(company.registry.versions(name)) == {"2"}, f"version 1 of {name} to be deleted"
        )
        answer = company.registry.http.post(
            "registered-models/alias", json={"name": name, "alias": "x", "version": "1"}
        )
        assert answer.is_client_error
    storage = company.where.storage
    assert isinstance(storage, Path)
    for root in (storage, company.registry.artifacts, company.server.folder):
        kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.safetensors")}
        assert kept
        assert not kept & old, root


def check_that_nothing_holds_the_address(company: Company, callback: Controller) -> None:
    await_that(lambda: any("request.completed" in one for one in company.messages), "the last webhook")
    kept = {f"log {path.name}": path.read_bytes() for path in company.stack.folder.logs.iterdir()}
    kept["MLflow's log"], kept["MLServer's log"] = company.registry.log.read_bytes(), company.server.log.read_bytes()
    kept |= rows_of("Expunge", company.where.database_url) | rows_of("MLflow", company.registry.store)
    kept["metrics"] = company.http.get("/metrics").content
    kept["webhooks"] = json.dumps(company.messages).encode()
    kept["callbacks"] = str(callback.calls).encode()
    with redis.Redis.from_url(company.stack.settings.redis_url) as broker:
        kept |= {f"broker {key!r}": broker.dump(key) or b"" for key in broker.scan_iter()}
    for root in (company.registry.artifacts, company.stack.folder.run, company.server.folder):
        kept |= {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_socket()}
    assert b"request.completed" in kept["webhooks"]
    assert b"POST /opendsr/v2/requests" in b"".join(kept.values())  # the access log is among what is searched
    assert kept["Expunge, table request_subjects"]  # the person's keyed hash is there
    assert len(kept) > 60
    for where, content in kept.items():
        for trace in traces():
            assert trace not in content.lower(), (where, trace)


def rows_of(whose: str, url: str) -> dict[str, bytes]:
    """Every row of every table of a database."""
    engine = create_engine(normalise_url(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        rows = stored_rows(connection)
    engine.dispose()
    assert rows
    return {f"{whose}, table {table}": "\n".join(found).encode() for table, found in rows.items()}


def traces() -> Iterator[bytes]:
    """What the address would leave behind if it were kept as it is, encoded, or hashed without a key; in small letters."""
    for form in (PERSON, PERSON.lower()):
        plain = form.encode()
        yield from (plain.lower(), quote(form, safe="").lower().encode(), plain.hex().encode())
        yield base64.b64encode(plain).rstrip(b"=").lower()
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            yield digest(plain).hexdigest().encode()
    yield b"ann.example"
