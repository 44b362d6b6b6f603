"""Whatever is sent, the answer is a clear problem, nothing is written, and nothing that could be a sample ID is repeated."""

import json
import random
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from ledger.tables import Base
from tests.service.conftest import Serve, Site

GOOD = {"dataset": "scans", "sample_ids": ["sample-1"]}
SECRET = "patient-4711"


def rows(sessions: sessionmaker[Session]) -> dict[str, int]:
    with sessions() as session:
        return {t.name: session.scalar(select(func.count()).select_from(t)) or 0 for t in Base.metadata.sorted_tables}


def check(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"https://expunge.dev/problems/{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in answer.text
    assert SECRET not in answer.text
    return problem


BODIES: list[tuple[str, Any, str, str]] = [
    # what is wrong, the body, where the fault lies, words that tell what would be right
    ("a list", [], "", "object"),
    ("a string", "x", "", "object"),
    ("null", None, "", "object"),
    ("empty", {}, "/sample_ids", "required"),
    ("samples of no dataset", {"sample_ids": ["sample-1"]}, "/dataset", "required"),
    ("samples of several datasets", {"sample_ids": ["sample-1"], "datasets": ["scans"]}, "/dataset", "one dataset"),
    ("datasets in two ways", GOOD | {"datasets": ["scans"]}, "/datasets", "not both"),
    ("no datasets", {"subjects": ["ann"], "datasets": []}, "/datasets", "1 or more"),
    ("datasets that are one string", {"subjects": ["ann"], "datasets": "scans"}, "/datasets", "list"),
    ("nobody", {"subjects": []}, "/subjects", "1 or more"),
    ("too many people", {"subjects": ["s"] * 100_001}, "/subjects", "100,000"),
    ("people who are one string", {"subjects": SECRET}, "/subjects", "list"),
    ("a person who is a number", {"subjects": [SECRET, 4711]}, "/subjects/1", 'written "7"'),
    ("a person who is empty", {"subjects": [""]}, "/subjects/0", "at least 1"),
    ("a person who is blank", {"subjects": ["ann", " "]}, "/subjects/1", "subject begins or ends with a blank"),
    ("a person who is very long", {"subjects": [SECRET * 100]}, "/subjects/0", "at most 200"),
    ("people beside an upload", {"subjects": [SECRET], "upload": str(UUID(int=1))}, "/upload", "stands alone"),
    ("no samples", {"dataset": "scans"}, "/sample_ids", "required"),
    ("an empty list", GOOD | {"sample_ids": []}, "/sample_ids", "1 or more"),
    ("too many samples", GOOD | {"sample_ids": ["s"] * 100_001}, "/sample_ids", "100,000"),
    ("samples that are one string", GOOD | {"sample_ids": SECRET}, "/sample_ids", "list"),
    ("samples that are an object", GOOD | {"sample_ids": {SECRET: 1}}, "/sample_ids", "list"),
    ("a sample that is a number", GOOD | {"sample_ids": [SECRET, 4711]}, "/sample_ids/1", 'written "7"'),
    ("a sample that is empty", GOOD | {"sample_ids": [""]}, "/sample_ids/0", "at least 1"),
    ("a sample that is very long", GOOD | {"sample_ids": [SECRET * 100]}, "/sample_ids/0", "at most 200"),
    ("a sample that is no text", GOOD | {"sample_ids": ["\ud800"]}, "/sample_ids/0", "unicode"),
    ("a field that does not exist", GOOD | {"sample_id": [SECRET]}, "/sample_id", "did you mean sample_ids"),
    ("a field that may be a sample", GOOD | {SECRET: 1}, "/?", "no such field"),
    ("a dataset that is no name", GOOD | {"dataset": "a\u0000b"}, "/dataset", "control character"),
    ("a dataset that is a number", GOOD | {"dataset": 1}, "/dataset", "string"),
    ("no models", GOOD | {"models": []}, "/models", "1 or more"),
    ("a model that is a number", GOOD | {"models": [1]}, "/models/0", "string"),
    ("an unknown regulation", GOOD | {"regulation": "gdrp"}, "/regulation", "one of gdpr"),
    ("a time without a zone", GOOD | {"received_at": "2026-01-01T00:00:00"}, "/received_at", "timezone"),
    ("a time that is none", GOOD | {"received_at": SECRET}, "/received_at", "datetime"),
    ("a time that is a number", GOOD | {"received_at": 1_700_000_000}, "/received_at", "RFC 3339"),
    ("a time without its sign", GOOD | {"received_at": "2026-01-31T09:00:00.5 01:00"}, "/received_at", "%2B"),
    ("a time in the future", GOOD | {"received_at": "2999-01-01T00:00:00Z"}, "/received_at", "future"),
    ("the last time there is", GOOD | {"received_at": "9999-12-31T23:59:59-12:00"}, "/received_at", "future"),
    ("a time long ago", GOOD | {"received_at": "0001-01-01T00:00:00+14:00"}, "/received_at", "2000"),
    ("text with NUL", GOOD | {"reason": "a\u0000"}, "/reason", "U+0000"),
    ("too much text", GOOD | {"external_id": "x" * 201}, "/external_id", "at most 200"),
    ("expedite that is no boolean", GOOD | {"expedite": "perhaps"}, "/expedite", "boolean"),
    ("a method that does not exist", GOOD | {"method": "lut"}, "/method/kind", "one of ltu"),
    ("a method without a kind", GOOD | {"method": {"steps": 3}}, "/method/kind", "one of ltu"),
    ("a misspelt parameter", GOOD | {"method": {"kind": "ltu", "stepps": 3}}, "/method/stepps", "did you mean 'steps'"),
    (
        "a misspelt parameter inside another",
        GOOD | {"method": {"kind": "ltu", "stop": {"tolerence": 3}}},
        "/method/stop/tolerence",
        "did you mean 'tolerance'",
    ),
    ("a parameter out of range", GOOD | {"method": {"kind": "ltu", "steps": 0}}, "/method/steps", "must be"),
    ("a parameter of another type", GOOD | {"method": {"kind": "ltu", "steps": []}}, "/method/steps", "int"),
    (
        "a parameter too large",
        GOOD | {"method": {"kind": "ltu", "steps": 10**30}},
        "/method/steps",
        "at most 1,000,000",
    ),
    ("a parameter beyond a float", GOOD | {"method": {"kind": "ieu", "decay": 10**400}}, "/method/decay", "finite"),
    ("a method that is a list", GOOD | {"method": ["ltu"]}, "/method", "object"),
]


@pytest.mark.parametrize("path", ["/unlearn-requests", "/unlearn-requests:preview"])
def test_a_wrong_body_is_refused_with_where_it_is_wrong_and_what_would_be_right(
    serve: Serve, site: Site, sessions: sessionmaker[Session], path: str
) -> None:
    client = serve(key=site.admin)
    before = rows(sessions)

    for what, body, pointer, words in BODIES:
        content = json.dumps(body)  # httpx's own would not escape a lone surrogate
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        problem = check(answer, 422, "invalid-request")

        assert pointer in [fault["pointer"] for fault in problem["errors"]], (what, problem)
        assert words in str(problem["errors"]), (what, problem)
    assert rows(sessions) == before


@pytest.mark.parametrize(
    ("wrong", "detail"),
    [
        ({"reason": 1}, "One fault; see errors."),
        ({"reason": 1, "external_id": 2}, "2 faults; see errors."),
        (
            {"sample_ids": [7, 8]},
            "At least one fault; see errors. Of a list, what follows its first fault may not have been checked.",
        ),
    ],
)
def test_a_problem_says_how_many_faults_there_are(
    serve: Serve, site: Site, wrong: dict[str, object], detail: str
) -> None:
    """Lists are checked up to their first fault: a hundred thousand of them would cost a second, and lists name twenty."""
    assert serve(key=site.admin).post("/unlearn-requests", json=GOOD | wrong).json()["detail"] == detail


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"dataset": "scans",}', b"\xff\xfe", b"nonsense", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"],
    ids=["empty", "open", "comma", "not UTF-8", "word", "deep", "long number"],
)
def test_what_is_not_json_is_a_400(serve: Serve, site: Site, content: bytes) -> None:
    answer = serve(key=site.admin).post(
        "/unlearn-requests", content=content, headers={"Content-Type": "application/json"}
    )

    check(answer, *((422, "invalid-request") if not content else (400, "malformed-json")))


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "///"]
)
def test_another_media_type_is_a_415(serve: Serve, site: Site, media_type: str) -> None:
    answer = serve(key=site.admin).post(
        "/unlearn-requests", content=b'{"dataset": "scans"}', headers={"Content-Type": media_type}
    )

    check(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("change", "status", "slug", "words"),
    [
        ({"dataset": "scan"}, 404, "unknown-dataset", "scan"),
        ({"models": ["triagee"]}, 404, "unknown-model", "triagee"),
        ({"models": ["triage", "triagee"]}, 404, "unknown-model", "triagee"),
        ({"sample_ids": [SECRET]}, 422, "no-samples-match", ""),
        ({"sample_ids": ["sample-99"]}, 422, "no-samples-match", ""),
        ({"sample_ids": None, "subjects": [SECRET]}, 422, "no-samples-match", ""),
        ({"sample_ids": None, "subjects": [SECRET], "dataset": None}, 422, "no-samples-match", ""),
        (
            {"sample_ids": None, "subjects": [SECRET], "dataset": None, "datasets": ["scan"]},
            404,
            "unknown-dataset",
            "scan",
        ),
    ],
)
def test_what_the_ledger_refuses_is_a_problem_and_leaves_nothing(
    serve: Serve,
    site: Site,
    sessions: sessionmaker[Session],
    change: dict[str, Any],
    status: int,
    slug: str,
    words: str,
) -> None:
    client = serve(key=site.admin)
    before = rows(sessions)

    answer = client.post("/unlearn-requests", json=GOOD | change, headers={"Idempotency-Key": "k"})

    assert words in check(answer, status, slug)["detail"]
    assert rows(sessions) == before


def test_a_body_too_large_leaves_nothing(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:
    before = rows(sessions)

    answer = serve(key=site.admin, max_body_bytes=10_000).post(
        "/unlearn-requests", json=GOOD | {"sample_ids": ["x" * 100] * 200}
    )

    assert "10000 bytes" in check(answer, 413, "body-too-large")["detail"]
    assert rows(sessions) == before


def test_without_a_key_or_with_the_wrong_scope_nothing_is_written(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    before = rows(sessions)

    check(serve().post("/unlearn-requests", json=GOOD), 401, "unauthenticated")
    problem = check(serve(key=site.reader).post("/unlearn-requests", json=GOOD), 403, "scope-missing")
    check(serve(key=site.writer).post("/unlearn-requests:preview", json=GOOD), 403, "scope-missing")

    assert "requests:write" in problem["detail"]
    assert rows(sessions) == before


def test_a_wrong_key_is_refused_before_a_wrong_body(serve: Serve, site: Site) -> None:
    check(serve().post("/unlearn-requests", json={}), 401, "unauthenticated")


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ä".encode()])
def test_a_wrong_idempotency_key_is_named_as_a_header(serve: Serve, site: Site, key: str | bytes) -> None:
    answer = serve(key=site.admin).post("/unlearn-requests", json=GOOD, headers={"Idempotency-Key": key})

    (fault,) = check(answer, 422, "invalid-request")["errors"]
    assert (fault["in"], fault["name"]) == ("header", "idempotency-key")


NOBODY = "00000000-0000-0000-0000-000000000000"


def test_wrong_paths_and_queries_are_problems(serve: Serve, site: Site) -> None:
    client = serve(key=site.admin)
    for path, status, slug in (
        (f"/unlearn-requests/{NOBODY}", 404, "not-found"),
        (f"/unlearn-requests/{NOBODY}/events", 404, "not-found"),
        (f"/jobs/{NOBODY}", 404, "not-found"),
        (f"/jobs/{NOBODY}/events", 404, "not-found"),
        (f"/reports/{NOBODY}", 404, "not-found"),
        ("/jobs/4711", 404, "not-found"),
        ("/jobs/%ff", 404, "not-found"),
        ("/unlearn-requests?state=lost", 422, "invalid-request"),
        ("/unlearn-requests?limit=0", 422, "invalid-request"),
        ("/unlearn-requests?limit=201", 422, "invalid-request"),
        ("/unlearn-requests?limit=many", 422, "invalid-request"),
        ("/unlearn-requests?model=%00", 422, "invalid-request"),
        ("/unlearn-requests?due_before=tomorrow", 422, "invalid-request"),
        ("/unlearn-requests?due_before=-51461", 422, "invalid-request"),
        ("/unlearn-requests?due_before=2026-01-01T00:00:00", 422, "invalid-request"),
        ("/unlearn-requests?cursor=nonsense", 422, "invalid-cursor"),
        ("/unlearn-requests?cursor=%00", 422, "invalid-cursor"),
        ("/jobs?cursor=WyIyMDI2LTAxLTAxIiwgMV0=", 422, "invalid-cursor"),
        (f"/jobs/{NOBODY}/events?after=-1", 422, "invalid-request"),
        (f"/jobs/{NOBODY}/events?after=99999999999999999999", 422, "invalid-request"),
    ):
        check(client.get(path), status, slug)


def test_a_wrong_method_is_refused_with_the_right_ones(serve: Serve, site: Site) -> None:
    answer = serve(key=site.admin).put("/unlearn-requests", json=GOOD)

    check(answer, 405, "method-not-allowed")
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


NONSENSE: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, 10**400, "", " ", "\u0000", "\ud800", "x" * 5000),
    *([], {}, [None], [[[[[[[]]]]]]], {"": None}, "'; DROP TABLE jobs; --", "../../etc/passwd", "${jndi:ldap://x}"),
]


def corrupt(chance: random.Random) -> bytes:
    """A good body with nonsense in one field or two, in a tenth of the cases broken as JSON or UTF-8 too."""
    body: dict[str, Any] = dict(GOOD)
    field = chance.choice(["dataset", "sample_ids", "models", "sample_ids/1", "unknown", "missing"])
    if field == "missing":
        del body[chance.choice(list(body))]
    elif field == "sample_ids/1":
        body["sample_ids"] = ["sample-1", chance.choice([None, 1, True, [], {}, "", "x" * 300, "\ud800"])]
    elif field == "models":
        body["models"] = chance.choice([[], "triage", [1], [None], ["nobody"], {}, 1])
    else:
        body[field] = chance.choice(NONSENSE)
    if chance.random() < 0.3:
        body[f"unknown-{chance.randrange(10)}"] = chance.choice(NONSENSE)
    content = json.dumps(body).encode()
    if chance.random() < 0.1:
        cut = chance.randrange(1, len(content))
        content = chance.choice([content[:cut], content[:cut] + b"\xff" + content[cut:], b"\x00" + content])
    return content


@pytest.mark.parametrize("path", ["/unlearn-requests", "/unlearn-requests:preview"])
def test_a_body_corrupted_at_random_is_a_problem_and_writes_nothing(
    serve: Serve, site: Site, sessions: sessionmaker[Session], path: str
) -> None:
    client, chance = serve(key=site.admin), random.Random(path)
    before = rows(sessions)

    for _ in range(250):
        content = corrupt(chance)
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 404, 422}, content
        assert answer.headers["content-type"] == "application/problem+json", content
        assert answer.json()["status"] == answer.status_code
        assert "Traceback" not in answer.text
    assert rows(sessions) == before
