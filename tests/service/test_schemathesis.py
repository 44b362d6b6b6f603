"""Generated calls against the running service, judged by every check of Schemathesis: no remark."""

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPMethod, HTTPStatus
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.service.conftest import Serve, Site

load_all_checks()


PEOPLE = "/uploads/subjects"
"""Any text that is not blank is a list of people, whatever it was generated to be."""


def good_data_is_accepted(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Leave out what a schema cannot say: two pairs of a method's parameters bound one another, and nobody may be known."""
    method = case.body.get("method") if isinstance(case.body, Mapping) else None
    if isinstance(method, Mapping) and {"decay", "remembering"} & method.keys():
        return None
    if case.path == PEOPLE or (
        response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY and "/no-samples-match" in response.text
    ):
        return None
    return positive_data_acceptance(context, response, case)


def bad_data_is_refused(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Leave out bodies that are texts, and calls whose query lacks a generated parameter: an empty list leaves nothing in it."""
    sent = parse_qs(urlsplit(response.request.url or "").query, keep_blank_values=True)
    if case.path == PEOPLE or case.query.keys() - sent.keys():
        return None
    return negative_data_rejection(context, response, case)


OURS = {"positive_data_acceptance": good_data_is_accepted, "negative_data_rejection": bad_data_is_refused}
EVERY_CHECK = [OURS.get(name, CHECKS.get_one(name)) for name in CHECKS.get_all_names()]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_generated_calls_get_documented_answers(
    serve: Serve, site: Site, broker_url: str, mode: GenerationMode
) -> None:
    client = serve(key=site.admin, broker=broker_url, address_rate_limit="none")
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    for found in schema.get_all_operations():
        # Schemathesis' own pytest plugin does not work with pytest 9.
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=settings().max_examples // 4,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def call(case: schemathesis.Case) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {site.admin}"}, checks=EVERY_CHECK)

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
