"""The console's pages: requests with their deadlines, jobs, models with what each version has forgotten, reports, sign-in."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from ledger.db import now
from ledger.errors import KeyRefused, UnknownReport
from ledger.events.timeline import list_newest_events
from ledger.jobs.jobs import get_job, get_report, list_attempts, list_jobs, list_reports
from ledger.registry.access import Scope, authenticate
from ledger.registry.models import list_models
from ledger.registry.versions import read_history
from ledger.requests.requests import get_request, list_requests
from ledger.states import RequestState
from service.api.reports import ENVELOPE, HTML, JSON, PDF, answer_report
from service.console.rendering import NavigationRoute, PageRoute, is_ended, page, script, style
from service.console.sign_in import (
    Reader,
    ReportReader,
    Visitor,
    posted_key,
    require_same_site,
    sign_in,
    sign_out,
    signed_in,
)
from service.http.fields import JobCursor, Name, RequestCursor
from service.http.sessions import Ledger
from unlearning.specs import EXACT

router = APIRouter(route_class=PageRoute, include_in_schema=False)

navigation = APIRouter(route_class=NavigationRoute, include_in_schema=False)
"""Addresses of the API that a person opens in a browser."""

PAGE_SIZE = 50
"""Rows on a page of a list."""

DUE_SOON = timedelta(days=7)
"""How long before its deadline a request is due soon."""

FORMS = {"html": HTML, "pdf": PDF, "json": JSON, "statement": ENVELOPE}
"""The media types of a report, by the suffix of its address."""


class Filter(StrEnum):
    """Which requests the first page shows."""

    OPEN = "open"
    OVERDUE = "overdue"
    DUE_SOON = "due_soon"  # unserved, and due within DUE_SOON or overdue
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


def _conditions(show: Filter | None, at: datetime) -> dict[str, Any]:
    """Translate a filter into arguments of `list_requests`."""
    match show:
        case None:
            return {}
        case Filter.OPEN:
            return {"is_open": True}
        case Filter.OVERDUE:
            return {"overdue": True}
        case Filter.DUE_SOON:
            return {"unserved": True, "due_before": at + DUE_SOON}
        case _:
            return {"state": RequestState(show)}


@router.get("/")
def home(ledger: Ledger, visitor: Visitor, show: Filter | None = None, cursor: RequestCursor = None) -> Response:
    """List the requests with their deadlines, newest first. A key that may only read reports gets those."""
    if not visitor.may(Scope.REQUESTS_READ):
        return RedirectResponse("/console/reports", 303)
    at = now(ledger)
    found = list_requests(ledger, tenant_id=visitor.tenant_id, cursor=cursor, limit=PAGE_SIZE, **_conditions(show, at))
    return page(
        "requests",
        visitor=visitor,
        here="/",
        found=found,
        now=at,
        show=show,
        filters=[None, *Filter],
    )


@router.get("/console/requests/{request_id:uuid}")
def one_request(request_id: UUID, ledger: Ledger, visitor: Reader) -> Response:
    """Show a request, model by model, with its timeline."""
    found = get_request(ledger, tenant_id=visitor.tenant_id, request_id=request_id)
    events, earlier = list_newest_events(ledger, tenant_id=visitor.tenant_id, request_id=request_id)
    return page(
        "request",
        visitor=visitor,
        here="/",
        found=found,
        events=events,
        earlier=earlier,
        now=now(ledger),
        live=not is_ended(found.state),
        may_read_reports=visitor.may(Scope.REPORTS_READ),
    )


@router.get("/console/jobs")
def jobs(ledger: Ledger, visitor: Reader, cursor: JobCursor = None) -> Response:
    """List the jobs, newest first."""
    found = list_jobs(ledger, tenant_id=visitor.tenant_id, cursor=cursor, limit=PAGE_SIZE)
    return page("jobs", visitor=visitor, here="/console/jobs", found=found, now=now(ledger))


@router.get("/console/jobs/{job_id:uuid}")
def one_job(job_id: UUID, ledger: Ledger, visitor: Reader) -> Response:
    """Show a job with its progress, attempts and timeline."""
    found = get_job(ledger, tenant_id=visitor.tenant_id, job_id=job_id)
    events, earlier = list_newest_events(ledger, tenant_id=visitor.tenant_id, job_id=job_id)
    return page(
        "job",
        visitor=visitor,
        here="/console/jobs",
        found=found,
        attempts=list_attempts(ledger, tenant_id=visitor.tenant_id, job_id=job_id),
        events=events,
        earlier=earlier,
        now=now(ledger),
        live=not is_ended(found.state),
        exact=found.method["kind"] in EXACT,
        may_read_reports=visitor.may(Scope.REPORTS_READ),
    )


@router.get("/console/models")
def models(ledger: Ledger, visitor: Reader) -> Response:
    """List the models with the served version."""
    found = list_models(ledger, tenant_id=visitor.tenant_id)
    return page("models", visitor=visitor, here="/console/models", found=found)


@router.get("/console/models/{name}")
def one_model(name: Name, ledger: Ledger, visitor: Reader) -> Response:
    """Show a model's versions, and what each has forgotten."""
    history = read_history(ledger, tenant_id=visitor.tenant_id, model=name)
    return page(
        "model",
        visitor=visitor,
        here="/console/models",
        found=history.model,
        versions=history.versions[::-1],
        may_read_reports=visitor.may(Scope.REPORTS_READ),
    )


@router.get("/console/reports")
def reports(ledger: Ledger, visitor: ReportReader) -> Response:
    """List the newest reports."""
    found = list_reports(ledger, tenant_id=visitor.tenant_id, limit=PAGE_SIZE)
    return page("reports", visitor=visitor, here="/console/reports", found=found)


@router.get("/console/reports/{report_id:uuid}.{form}")
def one_report(report_id: UUID, form: str, ledger: Ledger, visitor: ReportReader) -> Response:
    """Show a report as the API does: a page, a PDF, the JSON, the signed statement."""
    report = get_report(ledger, tenant_id=visitor.tenant_id, report_id=report_id)
    if form not in FORMS:
        raise UnknownReport(f"there is no report as {form}; its forms are {', '.join(FORMS)}")
    return answer_report(report, FORMS[form])


@navigation.get("/reports/{report_id:uuid}")
@navigation.get("/reports/{report_id:uuid}.html")
@navigation.get("/reports/{report_id:uuid}.pdf")
def report_in_browser(report_id: UUID, request: Request) -> Response:
    """Lead a browser from the API's address of a report to the console's."""
    suffix = request.url.path.rpartition(".")[2] if "." in request.url.path else "html"
    return RedirectResponse(f"/console/reports/{report_id}.{suffix}", 303)


@router.get("/console/sign-in")
def sign_in_page(request: Request) -> Response:
    """Show the form for the API key."""
    if signed_in(request) is not None:
        return RedirectResponse("/", 303)
    return page("sign-in", visitor=None, here="", refused=False)


@router.post("/console/sign-in")
def submit_key(request: Request, ledger: Ledger, key: Annotated[str, Depends(posted_key)]) -> Response:
    """Check the key and start a session."""
    require_same_site(request)
    try:
        caller = authenticate(ledger, key)
    except KeyRefused:
        return page("sign-in", visitor=None, here="", status=401, refused=True)
    response = RedirectResponse("/", 303)
    sign_in(response, request, ledger, caller)
    return response


@router.post("/console/sign-out")
def submit_sign_out(request: Request, ledger: Ledger) -> Response:
    """End the session."""
    require_same_site(request)
    response = RedirectResponse("/console/sign-in", 303)
    sign_out(response, request, ledger)
    return response


@router.get("/console/style.css")
def style_sheet() -> Response:
    """Serve the style sheet."""
    return Response(style(), media_type="text/css", headers={"Cache-Control": "max-age=300"})


@router.get("/console/live.js")
def live_script() -> Response:
    """Serve the script."""
    return Response(script(), media_type="text/javascript", headers={"Cache-Control": "max-age=300"})
