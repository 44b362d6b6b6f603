"""The pages: requests with their deadlines, jobs, models with what each version has forgotten, reports."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from ledger.db import now
from ledger.errors import KeyRefused, UnknownReport
from ledger.events.timeline import list_job_events, list_request_events
from ledger.jobs.jobs import get_job, list_attempts, list_jobs
from ledger.jobs.reports import get_report, list_reports
from ledger.registry.access import Scope, authenticate
from ledger.registry.models import get_model, list_models
from ledger.registry.retention import list_forgotten
from ledger.requests.submission import get_request, list_requests
from ledger.states import RequestState
from service.api.reports import ENVELOPE, HTML, JSON, PDF, answer_report
from service.console.formatting import ended
from service.console.rendering import Pages, page, script, style
from service.console.sign_in import Reader, ReportReader, Visitor, posted_key, same_site, sign_in, sign_out, signed_in
from service.http.fields import Cursor, Name
from service.http.sessions import Ledger

router = APIRouter(route_class=Pages, include_in_schema=False)

FEW = 50
"""Rows on a page of a list."""

SOON = timedelta(days=7)
"""From a request's date back, when it is due soon."""

FORMS = {"html": HTML, "pdf": PDF, "json": JSON, "statement": ENVELOPE}
"""What a report can be read as, by the end of its address."""


class Shown(StrEnum):
    """Which requests the first page is to show."""

    OPEN = "open"
    OVERDUE = "overdue"
    DUE_SOON = "due_soon"  # open, and due within SOON or late already
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


def _chosen(show: Shown | None, at: datetime) -> dict[str, Any]:
    """What `list_requests` is to be asked for."""
    match show:
        case None:
            return {}
        case Shown.OPEN:
            return {"is_open": True}
        case Shown.OVERDUE:
            return {"overdue": True}
        case Shown.DUE_SOON:
            return {"is_open": True, "due_before": at + SOON}
        case _:
            return {"state": RequestState(show)}


@router.get("/")
def home(ledger: Ledger, visitor: Visitor, show: Shown | None = None, cursor: Cursor = None) -> Response:
    """The requests, newest first, with their deadlines; for a key that may only read reports, those."""
    if not visitor.may(Scope.REQUESTS_READ):
        return RedirectResponse("/console/reports", 303)
    at = now(ledger)
    found = list_requests(ledger, tenant_id=visitor.tenant_id, cursor=cursor, limit=FEW, **_chosen(show, at))
    return page(
        "requests", visitor=visitor, here="/", found=found, now=at, show=show, choices=[None, *Shown], ended=ended
    )


@router.get("/console/requests/{request_id:uuid}")
def one_request(request_id: UUID, ledger: Ledger, visitor: Reader) -> Response:
    """A request, model by model, with its timeline."""
    found = get_request(ledger, tenant_id=visitor.tenant_id, request_id=request_id)
    events = list_request_events(ledger, tenant_id=visitor.tenant_id, request_id=request_id)
    return page(
        "request",
        visitor=visitor,
        here="/",
        found=found,
        events=events,
        now=now(ledger),
        live=not ended(found.state),
        may_read_reports=visitor.may(Scope.REPORTS_READ),
    )


@router.get("/console/jobs")
def jobs(ledger: Ledger, visitor: Reader, cursor: Cursor = None) -> Response:
    """The jobs, newest first."""
    found = list_jobs(ledger, tenant_id=visitor.tenant_id, cursor=cursor, limit=FEW)
    return page("jobs", visitor=visitor, here="/console/jobs", found=found, now=now(ledger))


@router.get("/console/jobs/{job_id:uuid}")
def one_job(job_id: UUID, ledger: Ledger, visitor: Reader) -> Response:
    """A job as it goes on."""
    found = get_job(ledger, tenant_id=visitor.tenant_id, job_id=job_id)
    return page(
        "job",
        visitor=visitor,
        here="/console/jobs",
        found=found,
        attempts=list_attempts(ledger, tenant_id=visitor.tenant_id, job_id=job_id),
        events=list_job_events(ledger, tenant_id=visitor.tenant_id, job_id=job_id),
        now=now(ledger),
        live=not ended(found.state),
        may_read_reports=visitor.may(Scope.REPORTS_READ),
    )


@router.get("/console/models")
def models(ledger: Ledger, visitor: Reader) -> Response:
    """The models with the version that is served."""
    found = list_models(ledger, tenant_id=visitor.tenant_id)
    return page("models", visitor=visitor, here="/console/models", found=found)


@router.get("/console/models/{name}")
def one_model(name: Name, ledger: Ledger, visitor: Reader) -> Response:
    """A model's versions, and what each has forgotten."""
    return page(
        "model",
        visitor=visitor,
        here="/console/models",
        found=get_model(ledger, tenant_id=visitor.tenant_id, name=name),
        versions=list_forgotten(ledger, tenant_id=visitor.tenant_id, model=name),
        may_read_reports=visitor.may(Scope.REPORTS_READ),
    )


@router.get("/console/reports")
def reports(ledger: Ledger, visitor: ReportReader) -> Response:
    """The newest reports."""
    found = list_reports(ledger, tenant_id=visitor.tenant_id, limit=FEW)
    return page("reports", visitor=visitor, here="/console/reports", found=found)


@router.get("/console/reports/{report_id:uuid}.{form}")
def one_report(report_id: UUID, form: str, ledger: Ledger, visitor: ReportReader) -> Response:
    """A report as the API gives it: a page, a PDF, the JSON."""
    report = get_report(ledger, tenant_id=visitor.tenant_id, report_id=report_id)
    if form not in FORMS:
        raise UnknownReport(f"a report has the forms {', '.join(FORMS)}, not {form}")
    return answer_report(report, FORMS[form])


@router.get("/console/sign-in")
def ask_for_key(request: Request) -> Response:
    """The form for the API key."""
    if signed_in(request) is not None:
        return RedirectResponse("/", 303)
    return page("sign-in", visitor=None, here="", refused=False)


@router.post("/console/sign-in")
def take_key(request: Request, ledger: Ledger, key: Annotated[str, Depends(posted_key)]) -> Response:
    """Check the key and start a session."""
    same_site(request)
    try:
        caller = authenticate(ledger, key)
    except KeyRefused:
        return page("sign-in", visitor=None, here="", status=401, refused=True)
    response = RedirectResponse("/", 303)
    sign_in(response, request, caller.key_id)
    return response


@router.post("/console/sign-out")
def leave(request: Request) -> Response:
    """End the session."""
    same_site(request)
    response = RedirectResponse("/console/sign-in", 303)
    sign_out(response)
    return response


@router.get("/console/style.css")
def style_sheet() -> Response:
    """The style sheet."""
    return Response(style(), media_type="text/css", headers={"Cache-Control": "max-age=300"})


@router.get("/console/live.js")
def live_script() -> Response:
    """The script."""
    return Response(script(), media_type="text/javascript", headers={"Cache-Control": "max-age=300"})
