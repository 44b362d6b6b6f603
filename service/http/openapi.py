"""The OpenAPI document, with the problems that a route may respond with, and the page that shows it."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles

from service.http.problems import MEDIA_TYPE, Problem
from unlearning.specs import PRODUCTION

DESCRIPTION = """\
Erases people's data from trained PyTorch models, proves it with an audit, and publishes the report.

1. `POST /unlearn-requests` with sample IDs or people responds with 202, the request and the job that it joined.
2. `GET /jobs/{id}` has state, phase, progress and time left; poll it with `If-None-Match`, as often as `Retry-After` says.
3. `GET /reports/{id}` has what the audit found, as JSON, HTML or PDF, once the job is completed.

Every call needs `Authorization: Bearer <API key>`, except the health checks, the metrics, `/methods`, `/keys` and the log's
checkpoint and proofs. Every error is `application/problem+json` (RFC 9457) with a stable `type`. Times are RFC 3339
in UTC, durations seconds, shares 0 to 1.
"""

_DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
)


_MEANINGS = {
    400: "The body is not JSON",
    401: "No API key, or one that is unknown or revoked",
    403: "The API key lacks the scope",
    404: "This tenant has no such thing",
    408: "The body did not arrive in time",
    409: "Not possible in this state",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "The shape or a value is wrong",
    429: "More calls than the key, or its address without a key, may make; Retry-After says when to continue",
    503: "The database or the broker does not answer",
}
"""What a status means, for the OpenAPI document."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may respond with, by status.

    Every route may respond with 429. A route with a body (413) may respond with 408 too.
    """
    statuses = (*statuses, 429, *((408,) if 413 in statuses else ()))
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Give the application its OpenAPI document and the page at /docs."""
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # as FastAPI documents it
    app.add_api_route("/docs", _page, include_in_schema=False)
    app.mount("/docs/swagger-ui", StaticFiles(packages=[("fastapi_swagger", "resources")]))  # from this host alone


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            license_info=app.license_info,
            tags=app.openapi_tags,
            servers=app.servers,
            routes=app.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        methods = {spec.__name__ for spec in PRODUCTION.values()} & set(schemas)
        for name in methods | {"Stop"} & set(schemas):
            schemas[name]["additionalProperties"] = False  # `parse` refuses unknown fields; a dataclass cannot say so
        for name in methods:
            schemas[name]["required"] = ["kind", *schemas[name].get("required", ())]  # which names the method
        for operation in (each for path in document["paths"].values() for each in path.values()):
            for parameter in operation.get("parameters", ()):
                _drop_null(parameter["schema"])
        app.openapi_schema = document
    return app.openapi_schema


def _drop_null(schema: dict[str, Any]) -> None:
    """Leave `null` out of a parameter's schema: headers and queries have none; a parameter without a value is left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema |= kinds[0]


def _page(request: Request) -> Response:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Expunge API",
        swagger_js_url="/docs/swagger-ui/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui/swagger-ui.css",
        swagger_favicon_url="/docs/swagger-ui/favicon-32x32.png",
    )
    page.headers["Content-Security-Policy"] = _DOCS_POLICY
    return page
