"""An unlearn request as the API tells it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.events.timeline import list_request_events
from ledger.jobs.estimates import Estimate, EstimateSource, estimate
from ledger.registry.access import Caller, Scope
from ledger.requests.deadlines import RULES
from ledger.requests.idempotency import Idempotency
from ledger.requests.submission import (
    cancel_request,
    extend_deadline,
    get_request,
    list_request_samples,
    list_requests,
    submit,
)
from ledger.requests.views import RequestView, TargetView
from ledger.sample_ids import sample_digest, samples_sha256
from ledger.states import TERMINAL, ClosingReason, JobState, Reason, RequestState, SampleOutcome, Verdict
from ledger.tables import Job
from report.canonical import canonical_sha256
from service.api.jobs import EventsBody
from service.api.methods import Method, stored
from service.http.authentication import Reader, Writer, require
from service.http.caching import NOT_CHANGED, conditional
from service.http.fields import After, Cursor, Limit, Moment, Name, SampleID, Text
from service.http.openapi import problems
from service.http.sessions import Ledger
from service.settings import Settings
from service.wakeups import wake


class SampleCounts(BaseModel):
    """How many of the samples there are of each outcome."""

    accepted: int = Field(description="To be erased.")
    already_erased: int = Field(description="Erased by an earlier job.")
    not_in_training_set: int = Field(description="No model in question was trained on them.")


class JoinedJob(BaseModel):
    """The job that a request joined for one model."""

    id: UUID | None = Field(description="See GET /jobs/{id}. Null in a preview that would open a new job.")
    state: JobState
    cut_off: datetime = Field(
        description="It starts then, if the model and a worker are free; until then others may join."
    )
    cut_off_reason: ClosingReason = Field(
        description="Why then: end of the window, a deadline, expedited, another method."
    )


class TargetBody(BaseModel):
    """One model that the request touches, with its own outcome."""

    model: str = Field(examples=["digits-cnn"])
    state: RequestState
    reason: Reason | None = Field(description="Why it ended as it did.")
    detail: str | None
    samples: SampleCounts | None = Field(
        description="Null for a key without requests:read: it must not learn who is in a training set."
    )
    job: JoinedJob | None
    version: int | None = Field(description="The model version that no longer knows the samples.")
    report_id: UUID | None = Field(description="See GET /reports/{id}.")
    verdict: Verdict | None
    finished_at: datetime | None


class UnlearnRequestBody(BaseModel):
    """What was asked, by when it is due, and what became of it, model by model."""

    id: UUID
    dataset: str = Field(examples=["digits"])
    state: RequestState = Field(description="The least advanced of its targets'; when all have ended, the worst.")
    targets: list[TargetBody]
    samples: SampleCounts | None = Field(description="Over all models. Null for a key without requests:read.")
    unmatched_sample_ids: list[str] | None = Field(
        default=None,
        description="In the answer to the POST alone: those of its sample IDs that no model was trained on. They are not stored. "
        "Null for a manifest, of which only the keyed hashes are there.",
    )
    method: dict[str, Any] | None = Field(description="Null for the models' own policies.")
    reason: str | None
    regulation: str
    received_at: datetime
    due_at: datetime = Field(description="By law, from when it was received.")
    extension_reason: str | None
    external_id: str | None
    expedite: bool
    created_at: datetime
    finished_at: datetime | None


class UnlearnRequestsBody(BaseModel):
    """A page of requests, newest first."""

    items: list[UnlearnRequestBody]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class EstimateBody(BaseModel):
    """How long a job will run."""

    model_config = ConfigDict(from_attributes=True)

    seconds: float = Field(description="From its start to its published result.")
    low_seconds: float
    high_seconds: float
    source: EstimateSource = Field(
        description="The model's last jobs (median and range), or, before the first, how long its training took: a guess."
    )
    finish_at: datetime = Field(description="When it will have ended at the latest, if the range holds.")


class PreviewTargetBody(TargetBody):
    """One model that the request would touch."""

    estimate: EstimateBody | None = Field(description="Null where there is nothing to erase, or nothing is known.")
    meets_deadline: bool | None = Field(
        description="Whether `finish_at` is not after `due_at`; null without an estimate."
    )


class PreviewBody(BaseModel):
    """What a request would do now. Nothing was written."""

    dataset: str
    samples: SampleCounts
    unmatched_sample_ids: list[str] | None = Field(description="Null for a manifest.")
    targets: list[PreviewTargetBody]
    received_at: datetime
    due_at: datetime


class ExtensionBody(BaseModel):
    """Why a request's deadline is extended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[Text, Field(min_length=1, pattern=r"\S")] = Field(
        description="For the record, and to be told to the person (GDPR Art. 12(3)). Nothing personal, please.",
        examples=["Five models are concerned, one of which takes three weeks to unlearn."],
    )


def told(request: RequestView, *, counted: bool) -> UnlearnRequestBody:
    """A request as its body; `counted` says whether the reader may know how many samples matched."""
    return UnlearnRequestBody(
        id=request.id,
        dataset=request.dataset,
        state=request.state,
        targets=[_target(target, counted=counted) for target in request.targets],
        samples=_counts(request) if counted else None,
        method=None if request.method is None else dict(request.method),
        reason=request.reason,
        regulation=request.regulation,
        received_at=request.received_at,
        due_at=request.due_at,
        extension_reason=request.extension_reason,
        external_id=request.external_id,
        expedite=request.expedite,
        created_at=request.created_at,
        finished_at=request.finished_at,
    )


def _target(target: TargetView, *, counted: bool) -> TargetBody:
    return TargetBody(
        model=target.model,
        state=target.state,
        reason=target.reason,
        detail=target.detail,
        samples=_counts(target) if counted else None,
        job=_job(target),
        version=target.version,
        report_id=target.report_id,
        verdict=target.verdict,
        finished_at=target.finished_at,
    )


def _counts(of: RequestView | TargetView) -> SampleCounts:
    return SampleCounts(
        accepted=of.accepted, already_erased=of.already_erased, not_in_training_set=of.not_in_training_set
    )


def _job(target: TargetView) -> JoinedJob | None:
    if target.job_id is None or target.job_state is None or target.cut_off is None or target.cut_off_reason is None:
        return None
    return JoinedJob(
        id=target.job_id, state=target.job_state, cut_off=target.cut_off, cut_off_reason=target.cut_off_reason
    )


MOST_SAMPLE_IDS = 100_000


def _under_law(value: datetime) -> datetime:
    """Refuse a time before any law that this service knows. One in the future the ledger refuses, by the database's clock."""
    if value.year < 2000:
        raise ValueError("must be in the year 2000 or later")
    return value


def _known_regulation(value: str) -> str:
    if value not in RULES:
        raise ValueError(f"must be one of {', '.join(RULES)}")
    return value


SampleIDs = Annotated[list[SampleID], Field(min_length=1, max_length=MOST_SAMPLE_IDS, fail_fast=True)]


class NewUnlearnRequest(BaseModel):
    """The erasure of samples from every model that was trained on them, or from the models named."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "dataset": "digits",
                    "sample_ids": ["digit-0017", "digit-0201"],
                    "regulation": "gdpr",
                    "external_id": "DSR-2041",
                },
                {
                    "dataset": "digits",
                    "sample_ids": ["digit-0017"],
                    "models": ["digits-cnn"],
                    "method": {"kind": "ltu", "steps": 40},
                },
            ]
        },
    )

    dataset: Name = Field(description="Name of a registered dataset.")
    sample_ids: SampleIDs | None = Field(
        default=None,
        description="IDs of the samples to erase, as the dataset has them. One given twice counts once. Never stored as they are.",
    )
    manifest: UUID | None = Field(
        default=None, description="An uploaded list instead of `sample_ids`: see POST /manifests."
    )
    models: list[Name] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Only these models; by default every active one trained on them.",
    )
    method: Method = "auto"
    reason: Text | None = Field(default=None, description="Why, in words for the record. Nothing personal, please.")
    regulation: Annotated[str, AfterValidator(_known_regulation)] = Field(
        default="gdpr", description="The law whose clock runs.", json_schema_extra={"enum": list(RULES)}
    )
    received_at: Annotated[Moment, AfterValidator(_under_law)] | None = Field(
        default=None,
        description="When the person asked (RFC 3339, with offset); the legal clock runs from here. Default: now.",
    )
    external_id: Annotated[Text, Field(max_length=200)] | None = Field(
        default=None, description="Your own reference. Nothing personal, please."
    )
    expedite: bool = Field(default=False, description="Do not wait for other requests to join the job.")
    validate_only: bool = Field(
        default=False, description="Answer what would happen and change nothing; as the :preview call."
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        """Refuse none and both of the two ways to name samples."""
        if (self.sample_ids is None) == (self.manifest is None):
            raise PydanticCustomError(
                "samples", "Exactly one of sample_ids and manifest is required", {"field": "sample_ids"}
            )
        return self


def record_request(
    session: Session, asked: NewUnlearnRequest, caller: Caller, *, settings: Settings, idempotency_key: str | None
) -> UnlearnRequestBody:
    """Record a request and say what it means. Raises what `ledger.requests.submission.submit` raises."""
    digests = _digests(asked, settings)
    view = _submit(session, asked, caller, digests, settings=settings, idempotency_key=idempotency_key)
    body = told(view, counted=caller.may(Scope.REQUESTS_READ))
    if asked.manifest is None and body.samples is not None and body.samples.not_in_training_set:
        body.unmatched_sample_ids = _unmatched(session, view, caller, digests)
    return body


def preview_request(session: Session, asked: NewUnlearnRequest, caller: Caller, *, settings: Settings) -> PreviewBody:
    """What recording the request would mean: it is recorded behind a savepoint, looked at, and taken back."""
    digests = _digests(asked, settings)
    with session.begin_nested() as savepoint:
        view = _submit(session, asked, caller, digests, settings=settings, idempotency_key=None)
        unmatched = None if asked.manifest is not None else _unmatched(session, view, caller, digests)
        estimates = {t.model: estimate(session, job_id=t.job_id) for t in view.targets if t.job_id is not None}
        savepoint.rollback()
    body = told(view, counted=True)
    assert body.samples is not None  # counted
    there = set(session.scalars(select(Job.id).where(Job.id.in_([target.job_id for target in view.targets]))))
    for target in body.targets:
        if target.job is not None and target.job.id not in there:
            target.job.id = None
    return PreviewBody(
        dataset=body.dataset,
        samples=body.samples,
        unmatched_sample_ids=unmatched,
        targets=[_estimated(target, estimates.get(target.model), due_at=view.due_at) for target in body.targets],
        received_at=body.received_at,
        due_at=body.due_at,
    )


def _estimated(target: TargetBody, found: Estimate | None, *, due_at: datetime) -> PreviewTargetBody:
    return PreviewTargetBody(
        **dict(target),
        estimate=None if found is None else EstimateBody.model_validate(found),
        meets_deadline=None if found is None else found.finish_at <= due_at,
    )


def due_jobs(body: UnlearnRequestBody) -> list[UUID]:
    """The jobs of a request that take no further requests now, so that a worker can start them."""
    jobs = [target.job for target in body.targets if target.job is not None]
    return [job.id for job in jobs if job.id is not None and job.cut_off <= datetime.now(UTC)]


def _digests(asked: NewUnlearnRequest, settings: Settings) -> dict[bytes, str]:
    """The keyed hash of each sample ID, with the ID; it lives no longer than the call."""
    key = settings.sample_key_bytes
    return {sample_digest(key, asked.dataset, sample_id): sample_id for sample_id in asked.sample_ids or ()}


def _submit(
    session: Session,
    asked: NewUnlearnRequest,
    caller: Caller,
    digests: dict[bytes, str],
    *,
    settings: Settings,
    idempotency_key: str | None,
) -> RequestView:
    method = stored(asked.method)
    idempotency = None
    if idempotency_key is not None:
        idempotency = Idempotency(key=idempotency_key, body_sha256=_fingerprint(asked, digests, method))
    return submit(
        session,
        tenant_id=caller.tenant_id,
        caller=caller.name,
        dataset=asked.dataset,
        digests=list(digests),
        manifest_id=asked.manifest,
        models=asked.models,
        method=method,
        reason=asked.reason,
        regulation=asked.regulation,
        received_at=asked.received_at,
        external_id=asked.external_id,
        expedite=asked.expedite,
        batch_window=settings.batch_window,
        idempotency=idempotency,
    )


def _fingerprint(asked: NewUnlearnRequest, digests: Iterable[bytes], method: dict[str, object] | None) -> str:
    """SHA-256 of what is asked, over the keyed hashes: one over the IDs could be tried out by whoever reads the ledger."""
    said = asked.model_dump(
        mode="json", exclude={"sample_ids", "method"} | ({"manifest"} if asked.manifest is None else set())
    )
    return canonical_sha256({**said, "method": method, "samples": samples_sha256(digests)})


def _unmatched(session: Session, view: RequestView, caller: Caller, digests: dict[bytes, str]) -> list[str]:
    """Those of the sample IDs that no model in question was trained on."""
    outcome = SampleOutcome.NOT_IN_TRAINING_SET
    found = list_request_samples(session, tenant_id=caller.tenant_id, request_id=view.id, outcome=outcome)
    return sorted(digests[digest] for digest in found if digest in digests)


router = APIRouter(tags=["unlearn requests"])

POLL_SECONDS = "5"
"""How often a client should ask about an open request."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any unique string of yours. The same key with the same body gives the first answer again, for 30 days.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


@router.post(
    "/unlearn-requests",
    status_code=202,
    summary="Ask for samples to be erased",
    response_model=UnlearnRequestBody,
    response_description="Recorded: nothing of it can get lost any more",
    responses={
        200: {"model": PreviewBody, "description": "With validate_only: what it would do"},
        202: {
            "headers": {
                "Location": {"description": "Where the request is", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds after which to look", "schema": {"type": "integer"}},
            }
        },
        **problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
    },
)
def post_unlearn_request(
    asked: NewUnlearnRequest,
    request: Request,
    response: Response,
    tasks: BackgroundTasks,
    caller: Writer,
    ledger: Ledger,
    idempotency_key: IdempotencyKey = None,
) -> UnlearnRequestBody | Response:
    """Records the request and lets it join a job for each model that was trained on the samples.

    The answer says which jobs, when each starts at the latest, and why. Samples that no model was trained on do not fail the rest;
    a request in which none matches is refused.
    """
    state = request.app.state
    if asked.validate_only:
        require(caller, Scope.REQUESTS_READ)  # a preview tells who is in a training set
        preview = preview_request(ledger, asked, caller, settings=state.settings)
        return Response(preview.model_dump_json(), media_type="application/json")
    body = record_request(ledger, asked, caller, settings=state.settings, idempotency_key=idempotency_key)
    tasks.add_task(wake, state.broker, state.database, due_jobs(body))
    response.headers["Location"] = f"/unlearn-requests/{body.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return body


@router.post(
    "/unlearn-requests:preview",
    summary="See what a request would do",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def preview_unlearn_request(asked: NewUnlearnRequest, request: Request, caller: Reader, ledger: Ledger) -> PreviewBody:
    """The models it would touch, how many samples match, the jobs it would join with their cut-offs, how long they
    would take, and whether that meets the deadline. Nothing is written."""
    return preview_request(ledger, asked, caller, settings=request.app.state.settings)


@router.get("/unlearn-requests", summary="List the requests", responses=problems(401, 403, 422, 503))
def get_unlearn_requests(
    caller: Reader,
    ledger: Ledger,
    state: RequestState | None = None,
    model: Name | None = None,
    due_before: Annotated[Moment | None, Query(description="Only those due before this time.")] = None,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only those that have not ended, or that have.")
    ] = None,
    overdue: Annotated[bool, Query(description="Only those that are open after their date.")] = False,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> UnlearnRequestsBody:
    """A page of the tenant's requests, newest first. What is soon due: `open=true` with `due_before`."""
    page = list_requests(
        ledger,
        tenant_id=caller.tenant_id,
        state=state,
        model=model,
        due_before=due_before,
        is_open=is_open,
        overdue=overdue,
        cursor=cursor,
        limit=limit,
    )
    items = [told(view, counted=True) for view in page.items]
    return UnlearnRequestsBody(items=items, next_cursor=page.next_cursor)


@router.get(
    "/unlearn-requests/{request_id:uuid}",
    summary="One request",
    response_model=UnlearnRequestBody,
    responses=problems(401, 403, 404, 422, 503) | NOT_CHANGED,
)
def get_unlearn_request(request_id: UUID, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """The request with each model's outcome. Poll with `If-None-Match`, as often as `Retry-After` says while it is open."""
    body = told(get_request(ledger, tenant_id=caller.tenant_id, request_id=request_id), counted=True)
    headers = {} if body.state in TERMINAL else {"Retry-After": POLL_SECONDS}
    return conditional(request, body, headers=headers)


@router.get(
    "/unlearn-requests/{request_id:uuid}/events",
    summary="A request's timeline",
    responses=problems(401, 403, 404, 422, 503),
)
def get_request_events(
    request_id: UUID, caller: Reader, ledger: Ledger, after: After = 0, limit: Limit = 200
) -> EventsBody:
    """What happened to the request and its targets, oldest first."""
    events = list_request_events(ledger, tenant_id=caller.tenant_id, request_id=request_id, after=after, limit=limit)
    return EventsBody.model_validate({"items": events}, from_attributes=True)


@router.post(
    "/unlearn-requests/{request_id:uuid}:cancel",
    summary="Withdraw a request",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_cancel(request_id: UUID, caller: Writer, ledger: Ledger) -> UnlearnRequestBody:
    """Withdraws the request for every model that has not been dealt with; 409 where it is too late for that, with the reason."""
    view = cancel_request(ledger, tenant_id=caller.tenant_id, request_id=request_id)
    return told(view, counted=caller.may(Scope.REQUESTS_READ))


@router.post(
    "/unlearn-requests/{request_id:uuid}:extend",
    summary="Extend a request's deadline",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def post_extend(request_id: UUID, asked: ExtensionBody, caller: Writer, ledger: Ledger) -> UnlearnRequestBody:
    """Extends the deadline of an open request, once, by what its regulation allows (GDPR: two months), for a reason.

    409 where it is finished, overdue or extended already.
    """
    view = extend_deadline(ledger, tenant_id=caller.tenant_id, request_id=request_id, reason=asked.reason)
    return told(view, counted=caller.may(Scope.REQUESTS_READ))
