from typing import Any, get_type_hints

import pytest
from sqlalchemy.orm import Session, sessionmaker

from expunge import answers, client
from expunge import client as calls
from expunge.errors import Refused
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import NOWHERE, SAMPLE_KEY, Serve, Site, begin_job, publish_job, serve, site  # noqa: F401

BODIES = {
    "Samples": "SampleCounts",
    "JoinedJob": "JoinedJob",
    "Target": "Target",
    "Request": "UnlearnRequest",
    "Estimate": "Estimate",
    "PreviewTarget": "PreviewTarget",
    "Preview": "Preview",
    "Job": "Job",
    "Event": "Event",
    "Attempt": "Attempt",
    "Dataset": "Dataset",
    "Version": "Version",
    "Model": "Model",
}
"""Each type of the client, and the schema of the API's document that it stands for."""


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    settings = Settings(
        database_url="postgresql://nobody@127.0.0.1:1/nothing", redis_url=NOWHERE, sample_key=SAMPLE_KEY
    )
    found: dict[str, Any] = create_app(settings).openapi()["components"]["schemas"]
    return found


def shape(schema: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """The JSON types that a schema admits, objects of the client's types by their names."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        ours = {body: own for own, body in BODIES.items()}
        return {ours[name]} if name in ours else shape(schemas[name], schemas)
    if "anyOf" in schema:
        return set().union(*(shape(one, schemas) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return {f"list[{'|'.join(sorted(shape(schema['items'], schemas)))}]"}
    return {schema["type"]}


def typed(hint: Any) -> set[str]:
    """The same of a type in Python."""
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if hint in names:
        return {names[hint]}
    origin = getattr(hint, "__origin__", None)
    if origin is dict:
        return {"object"}
    if origin is list:
        return {f"list[{'|'.join(sorted(typed(hint.__args__[0])))}]"}
    if hasattr(hint, "__args__"):
        return set().union(*map(typed, hint.__args__))
    return {hint.__name__}


@pytest.mark.parametrize("name", BODIES)
def test_the_types_are_those_of_the_apis_own_document(name: str, schemas: dict[str, Any]) -> None:
    of_api = {field: shape(s, schemas) for field, s in schemas[BODIES[name]]["properties"].items()}

    assert {field: typed(hint) for field, hint in get_type_hints(getattr(answers, name)).items()} == of_api


def test_every_call_does_what_it_says(serve: Serve, site: Site, sessions: sessionmaker[Session]) -> None:  # noqa: F811
    http = serve(key=site.admin)
    foreseen = calls.preview(http, dataset="scans", sample_ids=["sample-1", "nobody"])
    assert foreseen["samples"]["accepted"] == 1

    first = client.submit(http, dataset="scans", sample_ids=["sample-1"], expedite=True)
    (job_id,) = client.job_ids(first)
    publish_job(sessions, job_id)
    assert [event["kind"] for event in calls.job_events(http, job_id)][-1] == "job.completed"
    assert calls.job_events(http, job_id, after=calls.job_events(http, job_id)[-1]["id"]) == []
    assert [attempt["outcome"] for attempt in calls.job_attempts(http, job_id)] == ["published"]
    assert [version["number"] for version in calls.list_versions(http, "triage")] == [2, 1]
    assert calls.list_models(http)[0]["version"]["number"] == 2
    assert calls.list_datasets(http)[0]["samples"] == 100

    second = client.submit(http, dataset="scans", sample_ids=["sample-2"])
    assert calls.extend_request(http, second["id"], reason="Many models.")["extension_reason"] == "Many models."
    assert calls.cancel_request(http, second["id"])["state"] == "cancelled"
    assert [found["id"] for found in calls.list_requests(http, model="triage")] == [second["id"], first["id"]]
    assert [job["id"] for job in calls.list_jobs(http, state="completed")] == [job_id]

    third = client.submit(http, dataset="scans", sample_ids=["sample-3"], expedite=True)
    assert calls.cancel_job(http, client.job_ids(third)[0])["state"] == "cancelled"
    with pytest.raises(Refused) as refused:
        calls.retry_job(http, job_id)
    assert refused.value.status == 409


def test_a_list_is_read_over_all_of_its_pages(serve: Serve, site: Site) -> None:  # noqa: F811
    http = serve(key=site.admin)
    http.params = http.params.set("limit", "2")
    made = [client.submit(http, dataset="scans", sample_ids=[f"sample-{i}"])["id"] for i in range(5)]

    assert [request["id"] for request in calls.list_requests(http)] == made[::-1]
