"""Generated calls against the running service, judged by every check of Schemathesis: no remark."""

import itertools
import json
from contextlib import suppress
from http import HTTPMethod

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core import NotSet
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.subjects import assign_subjects
from ledger.sample_ids import sample_digest, subject_digest
from tests.service.conftest import SAMPLE_KEY, Serve, Site
from verifier.sample_ids import InvalidSampleID, line_to_id

load_all_checks()


PERSON = "person-1"
"""Somebody whose sample is in the training set."""

PEOPLE = "/uploads/subjects"
"""Any text that is not blank is a list of people, whatever it was generated to be."""


CALLS = itertools.count()


def complete(case: schemathesis.Case) -> None:
    """Go on generating where the schema ends. No check is left out: each case means then what its mode says.

    A schema cannot say that two parameters of a method bound one another, that a time has passed, that a key was not used before,
    that somebody in a list is known, or that the lines of a text are IDs. So good cases get values that fit, and lists with a known
    name. Any text may be a list of people, so a bad one is made of bytes that are no text. Where an empty list was generated for a
    parameter of the query, nothing would be sent; then it is sent twice, which no path allows.
    """
    good = case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE
    if case.path == PEOPLE and not isinstance(case.body, NotSet):
        case.body = people(case.body, case.media_type, good=good)
    if not good:
        if [] in case.query.values():
            case.query = {name: ["", ""] if value == [] else value for name, value in case.query.items()}
        return
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"call-{next(CALLS)}"
    if not isinstance(case.body, dict):
        return
    if isinstance(received := case.body.get("received_at"), str):
        case.body["received_at"] = "2024" + received[4:]  # no year to come; a leap year, which has every day
    method = case.body.get("method")
    if isinstance(method, dict):
        if not method.get("forgetting", True):
            method["remembering"] = True
        if method.get("kind") == "ieu":
            method["decay"] = min(method.get("decay", 0.01), 0.5 / method.get("learning_rate", 0.05))
    for field, known in (("subjects", PERSON), ("sample_ids", "sample-1")):
        if isinstance(case.body.get(field), list):
            case.body[field] = [*dict.fromkeys([known, *case.body[field][1:]])]


def people(generated: object, media_type: str | None, *, good: bool) -> str | bytes:
    """Make a list of people of what was generated: its good lines and a person, or its text with bytes that are none."""
    if not good:
        return str(generated).encode(errors="replace") + b"\n\xff"
    lines = [*filter(is_id, str(generated).splitlines()), PERSON]
    return "\n".join(json.dumps(line) if media_type == "application/x-ndjson" else line for line in lines)


def is_id(line: str) -> bool:
    """Whether a line is one, as the service reads it."""
    try:
        return bool(line_to_id(line))
    except InvalidSampleID:
        return False


EVERY_CHECK = [CHECKS.get_one(name) for name in CHECKS.get_all_names()]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_generated_calls_get_documented_answers(
    serve: Serve, site: Site, sessions: sessionmaker[Session], broker_url: str, mode: GenerationMode
) -> None:
    digests = [
        digest(bytes.fromhex(SAMPLE_KEY), *of)
        for digest, of in ((subject_digest, (PERSON,)), (sample_digest, ("scans", "sample-1")))
    ]
    with sessions.begin() as session:
        assign_subjects(session, tenant_id=site.tenant_id, dataset="scans", rows=[(*digests, 1)])
    client = serve(key=site.admin, broker=broker_url, address_rate_limit="none")
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    for found in schema.get_all_operations():
        # Schemathesis' own pytest plugin does not work with pytest 9.
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=settings().max_examples // 6,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def call(case: schemathesis.Case) -> None:
            complete(case)
            case.call_and_validate(headers={"Authorization": f"Bearer {site.admin}"}, checks=EVERY_CHECK, timeout=120)

        with suppress(Unsatisfiable):  # a call without parameters has nothing to get wrong
            call()


def test_every_path_lists_all_of_its_methods(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    ids = dict.fromkeys(("request_id", "job_id", "upload_id", "report_id"), "8b1a9b39-9a41-3d79-8878-ad5d00c275c6")
    ids |= {"webhook_id": ids["job_id"], "delivery_id": ids["job_id"], "name": "triage", "number": "1"}
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        own = {method.upper() for method in operations}
        for other in [*sorted(HTTPMethod.__members__.keys() - own - {"CONNECT"}), "BREW"]:
            answer: httpx.Response = client.request(other, path.format(**ids))
            assert answer.status_code == 405, (other, path)
            assert set(answer.headers["Allow"].split(", ")) == own, (other, path)


@pytest.mark.parametrize(
    "path",
    ["/jobs?modell=triage", "/keys?x=1", "/log/checkpoint?x", "/models/triage?sample-1=2", "/jobs?model=a&model=b"],
)
def test_a_parameter_that_a_path_does_not_take_or_takes_once_is_refused(serve: Serve, site: Site, path: str) -> None:
    answer = serve(key=site.admin).get(path)
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (422, "invalid-request")
    assert answer.json()["errors"][0]["in"] == "query"
    assert "sample-1" not in answer.text
