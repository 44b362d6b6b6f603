"""Generated calls against the running service: no 5xx, and no answer that the OpenAPI document does not tell."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.conftest import Serve, Site


def bad_data_is_rejected(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Leave out repeated query parameters: the service takes the last of them, which may be valid."""
    if any(isinstance(value, list) for value in (case.query or {}).values()):
        return None
    return negative_data_rejection(context, response, case)


CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    bad_data_is_rejected,
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_generated_calls_get_documented_answers(
    serve: Serve, site: Site, broker_url: str, mode: GenerationMode
) -> None:
    client = serve(key=site.admin, broker=broker_url)
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
            case.call_and_validate(headers={"Authorization": f"Bearer {site.admin}"}, checks=CHECKS)

        with suppress(Unsatisfiable):  # a call without parameters has nothing to get wrong
            call()
