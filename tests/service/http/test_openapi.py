import re
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import NOWHERE, SAMPLE_KEY, Serve


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    settings = Settings(database_url="postgresql://localhost/x", redis_url=NOWHERE, sample_key=SAMPLE_KEY)
    return create_app(settings).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{verb} {path}", call) for path, calls in document["paths"].items() for verb, call in calls.items()]


def test_every_call_is_summarised_and_described(document: dict[str, Any]) -> None:
    assert [name for name, call in operations(document) if not (call.get("summary") and call.get("description"))] == []


def test_every_error_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for name, call in operations(document):
        for status, answer in call["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (name, status)


def test_every_call_with_a_key_documents_the_refusals(document: dict[str, Any]) -> None:
    for name, call in operations(document):
        if "security" in call:
            assert {"401", "403", "422", "429", "503"} <= set(call["responses"]), name


def test_no_reference_leads_nowhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [v for k, v in node.items() if k == "$ref"] + [r for v in node.values() for r in references(v)]
        return [r for item in node for r in references(item)] if isinstance(node, list) else []

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document["paths"])) | set(references(document["components"])) <= known


def test_the_page_asks_no_other_host_for_anything(serve: Serve) -> None:
    client = serve()
    page = client.get("/docs")

    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 3
    assert all(link.startswith("/docs/") for link in links)
    assert {client.get(link).status_code for link in links} == {200}
    assert "http" not in page.headers["content-security-policy"]


def test_no_answer_has_an_internal_field(document: dict[str, Any]) -> None:
    shown = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})}

    assert not shown & {"tenant_id", "weights_path", "worker", "generation", "frozen_at", "closed_at", "lease_until"}
