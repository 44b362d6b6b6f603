import json

import pytest

from ledger.errors import NotFound
from service.http.fields import PATTERN_RULES
from service.http.problems import MAX_FAULTS, METHOD_NOT_ALLOWED, PROBLEMS, UPLOADS, faults_of, masked
from tests.service.conftest import Serve


@pytest.mark.parametrize(
    ("method", "path", "status", "slug", "title"),
    [
        ("GET", "/nothing-here", 404, "not-found", PROBLEMS[NotFound].title),
        ("DELETE", "/methods", 405, "method-not-allowed", METHOD_NOT_ALLOWED.title),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(
    serve: Serve, method: str, path: str, status: int, slug: str, title: str
) -> None:
    answer = serve().request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"https://expunge.dev/problems/{slug}"
    assert answer.json()["status"] == status
    assert answer.json()["title"] == title


def error(kind: str, *loc: str | int, message: str = "Wrong", **context: object) -> dict[str, object]:
    return {"type": kind, "loc": loc, "msg": message, "ctx": context, "input": "patient-17"}


def test_a_place_in_the_body_is_a_json_pointer() -> None:
    (fault,) = faults_of([error("string_type", "body", "models", 3)])

    assert fault == {"pointer": "/models/3", "detail": "Wrong."}


def test_a_field_of_a_method_has_its_own_pointer() -> None:
    (fault,) = faults_of([error("method", "body", "method", field="stop.tolerence")])

    assert fault["pointer"] == "/method/stop/tolerence"


def test_a_parameter_is_named_with_its_place() -> None:
    assert faults_of([error("int_type", "query", "limit")]) == [{"in": "query", "name": "limit", "detail": "Wrong."}]


def test_the_nearest_field_is_suggested_for_a_misspelt_one() -> None:
    (fault,) = faults_of([error("extra_forbidden", "body", "sample_idz")], known=["sample_ids", "dataset"])

    assert fault["pointer"] == "/sample_idz"
    assert "sample_ids" in fault["detail"]


def test_what_could_be_a_sample_id_is_not_repeated() -> None:
    (fault,) = faults_of([error("extra_forbidden", "body", "patient-17")], known=["dataset"])

    assert "patient" not in str(fault)


def test_a_field_at_the_beginning_of_a_message_keeps_its_name() -> None:
    named = error("value_error", "body", "method", message="Value error, steps is -4", field="stop.steps")
    other = error("value_error", "body", "method", message="Value error, the method is none", field="kind")

    assert [fault["detail"] for fault in faults_of([named, other])] == ["steps is -4.", "The method is none."]


@pytest.mark.parametrize(("name", "call"), UPLOADS.items())
def test_a_list_that_is_too_long_for_a_body_is_to_be_uploaded(name: str, call: str) -> None:
    (fault,) = faults_of([error("too_long", "body", name, max_length=100_000, actual_length=100_001)])

    assert call in fault["detail"]


def test_no_pattern_of_a_field_is_shown_as_a_regular_expression(serve: Serve) -> None:
    """What the API's own schema has as patterns of bodies and parameters, except those of pydantic's own formats."""
    schemas = serve().get("/openapi.json").text
    for pattern, rule in PATTERN_RULES.items():
        assert json.dumps(pattern) in schemas
        (fault,) = faults_of([error("string_pattern_mismatch", "body", "dataset", pattern=pattern)])
        assert fault["detail"].startswith(rule[:1].upper() + rule[1:])


def test_a_misspelt_parameter_has_the_nearest_suggested(serve: Serve) -> None:
    (fault,) = serve().get("/log/proof/consistency", params={"frst": "1"}).json()["errors"]

    assert "first" in fault["detail"]


def test_only_the_first_faults_are_listed() -> None:
    assert len(faults_of([error("string_type", "body", "models", index) for index in range(100)])) == MAX_FAULTS


def test_what_the_caller_sent_is_masked_unless_it_is_a_word_of_ours() -> None:
    sent = {"kind": "person-17", "stop": ["O'Neill"], "ltu": 1, ".": ""}
    message = "kind is 'person-17', stop has \"O'Neill\"; O'Neill is not one of ltu, ieu."
    assert masked(message, sent) == "kind is '…', stop has '…'; … is not one of ltu, ieu."


def test_what_is_nested_deeper_than_python_recurses_is_masked_too() -> None:
    sent: object = "person-17"
    for _ in range(5000):
        sent = [sent]
    assert masked("it is 'person-17'", sent) == "it is '…'"
