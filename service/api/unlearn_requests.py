"""Unlearn requests: submitting and previewing one, reading them, withdrawing one and extending its deadline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, JsonValue, StrictBool, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session

from ledger.db import now
from ledger.errors import TooLate
from ledger.events.timeline import list_request_events
from ledger.jobs.estimates import preview
from ledger.registry.access import Caller, Scope
from ledger.requests.cancellation import cancel_request, dismiss_request
from ledger.requests.deadlines import RULES, extend_deadline
from ledger.requests.idempotency import Idempotency
from ledger.requests.requests import count_subject_samples, get_request, list_request_samples, list_requests
from ledger.requests.submission import Submission, submit
from ledger.requests.uploads import unmatched_lines
from ledger.resources import Event, Listing, Page, Preview, UnlearnRequest
from ledger.sample_ids import (
    KEY_BYTES,
    commit_to_subject,
    hash_body,
    rehash,
    sample_digest,
    samples_sha256,
    subject_digest,
)
from ledger.sample_key import check_sample_key
from ledger.states import TERMINAL, Escalation, RequestState, SampleOutcome
from service.api.methods import Method
from service.http.authentication import Admin, ApiRoute, Reader, Writer, shown_to
from service.http.caching import NOT_CHANGED, conditional
from service.http.fields import After, Limit, Moment, Name, RequestCursor, RequiredText, SampleID, Subject, Text, Token
from service.http.openapi import problems
from service.http.sessions import Ledger
from service.settings import Settings
from service.wakeups import wake
from unlearning.specs.suitability import why_unsuitable

router = APIRouter(route_class=ApiRoute, tags=["unlearn requests"])

POLL_SECONDS = "5"
"""How often a client should poll an open request."""

IdempotencyKey = Annotated[
    Token | None,
    Header(
        description="A unique string of yours. For 30 days the same key with the same body gives the same request, as it is then.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]

MAX_SAMPLE_IDS = 100_000
"""Sample IDs, and subjects, in a body, at most; more are uploaded ahead of it."""

UPLOAD = "Upload sample IDs with POST /uploads and subjects with POST /uploads/subjects, or split them over several requests."
"""What to do with a body that is too large."""


def _known_regulation(value: str) -> str:
    if value not in RULES:
        raise ValueError(f"must be one of {', '.join(RULES)}")
    return value


SampleIDs = Annotated[list[SampleID], Field(min_length=1, max_length=MAX_SAMPLE_IDS, fail_fast=True)]
Subjects = Annotated[list[Subject], Field(min_length=1, max_length=MAX_SAMPLE_IDS, fail_fast=True)]

_FIELDS = ("sample_ids", "subjects", "upload", "dataset", "datasets")


def _way(*required: str, optional: Sequence[str] = (), **kinds: str) -> dict[str, JsonValue]:
    """Describe one way to say what is to be erased: which of _FIELDS it needs, may have and must not have."""
    unused: dict[str, JsonValue] = {name: {"type": "null"} for name in _FIELDS if name not in (*required, *optional)}
    used: dict[str, JsonValue] = {name: {"type": kinds[name]} for name in required}
    return {"required": list(required), "properties": unused | used}


_KINDS = {"sample_ids": "array", "subjects": "array", "upload": "string", "dataset": "string"}

WAYS: list[JsonValue] = [
    _way("sample_ids", "dataset", optional=["subjects"], **_KINDS),
    *(_way(people, "dataset", **_KINDS) for people in ("subjects", "upload")),
    *(_way(people, optional=["datasets"], **_KINDS) for people in ("subjects", "upload")),
]
"""The ways to say what is to be erased, for the OpenAPI document."""


class NewUnlearnRequest(BaseModel):
    """The erasure of samples, or of people's samples, from every model that was trained on them, or from the models named."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "anyOf": WAYS,
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
                {"subjects": ["user-4711"], "regulation": "gdpr", "external_id": "DSR-2042"},
            ],
        },
    )

    dataset: Name | None = Field(
        default=None,
        description="Name of a registered dataset. Required with `sample_ids`; an upload of sample IDs has its own.",
    )
    datasets: Annotated[list[Name], Field(min_length=1, max_length=100, fail_fast=True)] | None = Field(
        default=None,
        description="For people, several datasets instead of one. Without either, those of the named `models`, or else every "
        "dataset in which they have samples.",
    )
    sample_ids: SampleIDs | None = Field(
        default=None,
        description="IDs of the samples to erase, as the dataset has them. One given twice counts once. Never stored as they are.",
    )
    subjects: Subjects | None = Field(
        default=None,
        description="People, all of whose samples are to be erased; beside or instead of `sample_ids`. Never stored as they are.",
    )
    upload: UUID | None = Field(
        default=None,
        validation_alias=AliasChoices("upload", "manifest"),
        description="A list sent before, instead of both: see POST /uploads and POST /uploads/subjects. `manifest` is accepted as "
        "its older name.",
    )
    models: list[Name] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        fail_fast=True,
        description="Only these models; by default every active one trained on them.",
    )
    method: Method = "auto"
    reason: Text | None = Field(default=None, description="Why, in words for the record. Nothing personal, please.")
    regulation: Annotated[str, AfterValidator(_known_regulation)] = Field(
        default="gdpr", description="The law whose clock runs.", json_schema_extra={"enum": list(RULES)}
    )
    received_at: Moment | None = Field(
        default=None,
        description="When the person asked (RFC 3339, with offset); the legal clock runs from here. Default: now.",
    )
    external_id: Annotated[Text, Field(max_length=200)] | None = Field(
        default=None, description="Your own reference. Nothing personal, please."
    )
    expedite: StrictBool = Field(default=False, description="Do not wait for other requests to join the job.")
    escalate: Escalation | None = Field(
        default=None,
        description="Whether an inconclusive verdict leads to the policy's next method. Default: as each model is set.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """Refuse a body that says in no way, or in two, what is to be erased and in which datasets."""
        if self.sample_ids is None and self.subjects is None and self.upload is None:
            raise _fault("sample_ids", "One of sample_ids, subjects and upload is required")
        if self.upload is not None and (self.sample_ids is not None or self.subjects is not None):
            raise _fault("upload", "An upload stands alone, without sample_ids and subjects")
        if self.dataset is not None and self.datasets is not None:
            raise _fault("datasets", "Name dataset or datasets, not both")
        if self.sample_ids is not None and self.dataset is None:
            raise _fault("dataset", "Field required: sample_ids are the IDs of one dataset")
        return self


def _fault(field: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("samples", message, {"field": field})


class ExtensionBody(BaseModel):
    """Why a request's deadline is extended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: RequiredText = Field(
        description="For the record. The person must be given it too (GDPR Art. 12(3)). Nothing personal, please.",
        examples=["Five models are concerned, one of which takes three weeks to unlearn."],
    )


class DismissalBody(BaseModel):
    """Why a request that failed is no longer owed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: RequiredText = Field(
        description="For the record. Nothing personal, please.",
        examples=[
            "Served by another request, of 3 May: its version had been refused.",
            "Art. 17(3)(b): the law requires the records.",
        ],
    )


@router.post(
    "/unlearn-requests",
    status_code=202,
    summary="Ask for samples, or people's samples, to be erased",
    response_description="Recorded: nothing of it can get lost any more",
    responses={
        202: {
            "headers": {
                "Location": {"description": "Where the request is", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds after which to poll", "schema": {"type": "integer"}},
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
) -> UnlearnRequest:
    """Records the request and lets it join a job for each model that was trained on the samples.

    The answer says which jobs, when each starts at the latest, and why. Samples that no model was trained on, and people without
    samples, do not fail the rest; a request in which none matches is refused. A key without `requests:read` gets the same answer,
    202, whether anything matches or not.
    """
    state = request.app.state
    recorded = record_request(
        ledger,
        asked,
        caller,
        settings=state.settings,
        idempotency_key=idempotency_key,
        quiet=not caller.may(Scope.REQUESTS_READ),
    )
    moment = now(ledger)  # a job closes by the database's clock
    joined = [target.job for target in recorded.targets if target.job is not None]
    closed = [job.id for job in joined if job.id is not None and job.closes_at <= moment]
    tasks.add_task(wake, state.broker, state.database, closed)
    response.headers["Location"] = f"/unlearn-requests/{recorded.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return shown_to(caller, recorded)


@router.post(
    "/unlearn-requests:preview",
    summary="See what a request would do",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def preview_unlearn_request(asked: NewUnlearnRequest, request: Request, caller: Reader, ledger: Ledger) -> Preview:
    """The models it would touch, how many samples match, the jobs it would join with their closing times, how long they would take,
    and whether that meets the deadline. Nothing is written.
    """
    found = preview(ledger, partial(record_request, ledger, asked, caller, settings=request.app.state.settings))
    if asked.sample_ids is not None and found.unmatched_sample_ids is None:
        return found.model_copy(update={"unmatched_sample_ids": []})
    return found


@router.get("/unlearn-requests", summary="List the requests", responses=problems(401, 403, 404, 422, 503))
def get_unlearn_requests(
    caller: Reader,
    ledger: Ledger,
    state: RequestState | None = None,
    model: Name | None = None,
    due_before: Annotated[Moment | None, Query(description="Only those due before this time.")] = None,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only those that have not ended, or that have.")
    ] = None,
    unserved: Annotated[
        bool | None,
        Query(description="Only those that were neither served nor withdrawn nor dismissed, or only the others."),
    ] = None,
    overdue: Annotated[bool, Query(description="Only those that are unserved after their date.")] = False,
    cursor: RequestCursor = None,
    limit: Limit = 50,
) -> Page[UnlearnRequest]:
    """A page of the tenant's requests, newest first. What is soon due: `unserved=true` with `due_before`.

    404 for a model that is not registered.
    """
    return list_requests(
        ledger,
        tenant_id=caller.tenant_id,
        state=state,
        model=model,
        due_before=due_before,
        is_open=is_open,
        unserved=unserved,
        overdue=overdue,
        cursor=cursor,
        limit=limit,
    )


@router.get(
    "/unlearn-requests/{request_id:uuid}",
    summary="One request",
    response_model=UnlearnRequest,
    responses=problems(401, 403, 404, 422, 503) | NOT_CHANGED,
)
def get_unlearn_request(request_id: UUID, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """The request with each model's outcome. Poll with `If-None-Match`, as often as `Retry-After` says while it is open."""
    found = get_request(ledger, tenant_id=caller.tenant_id, request_id=request_id)
    headers = {} if found.state in TERMINAL else {"Retry-After": POLL_SECONDS}
    return conditional(request, found, headers=headers)


@router.get(
    "/unlearn-requests/{request_id:uuid}/events",
    summary="A request's timeline",
    responses=problems(401, 403, 404, 422, 503),
)
def get_request_events(
    request_id: UUID, caller: Reader, ledger: Ledger, after: After = 0, limit: Limit = 200
) -> Listing[Event]:
    """What happened to the request and its targets, oldest first."""
    events = list_request_events(ledger, tenant_id=caller.tenant_id, request_id=request_id, after=after, limit=limit)
    return Listing[Event](items=events)


@router.post(
    "/unlearn-requests/{request_id:uuid}:cancel",
    summary="Withdraw a request",
    responses=problems(401, 403, 404, 409, 422, 503),
)
def post_cancel(request_id: UUID, caller: Writer, ledger: Ledger) -> UnlearnRequest:
    """Withdraws the request for every model that has not erased its samples, also after a failure.

    409, with the reason, once its result is published, and while a job that serves other requests too is running or its version
    awaits approval. A key without `requests:read` gets the same answer, 200, whether anything was left to withdraw or not.
    """
    given = {"tenant_id": caller.tenant_id, "request_id": request_id}
    try:
        with ledger.begin_nested():
            found = cancel_request(ledger, **given)
    except TooLate:
        if caller.may(Scope.REQUESTS_READ):
            raise
        found = get_request(ledger, **given)
    return shown_to(caller, found)


@router.post(
    "/unlearn-requests/{request_id:uuid}:extend",
    summary="Extend a request's deadline",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def post_extend(request_id: UUID, asked: ExtensionBody, caller: Writer, ledger: Ledger) -> UnlearnRequest:
    """Extends the deadline of an unserved request, once, by what its regulation allows (GDPR: two months), for a reason.

    409 if it is served, withdrawn, dismissed, overdue or extended already; for a key without `requests:read` only the last two.
    """
    request = extend_deadline(
        ledger,
        tenant_id=caller.tenant_id,
        request_id=request_id,
        reason=asked.reason,
        quiet=not caller.may(Scope.REQUESTS_READ),
    )
    return shown_to(caller, request)


@router.post(
    "/unlearn-requests/{request_id:uuid}:dismiss",
    summary="Dismiss a request that failed",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def post_dismiss(request_id: UUID, asked: DismissalBody, caller: Admin, ledger: Ledger) -> UnlearnRequest:
    """Records that a request which ended without being served is no longer owed, and why. It counts as overdue no longer.

    409 while it is open, and if it is not owed any more. Who and when is on its timeline and in the log.
    """
    return dismiss_request(
        ledger, tenant_id=caller.tenant_id, request_id=request_id, reason=asked.reason, by=caller.name
    )


def record_request(
    session: Session,
    asked: NewUnlearnRequest,
    caller: Caller,
    *,
    settings: Settings,
    idempotency_key: str | None = None,
    quiet: bool = False,
) -> UnlearnRequest:
    """Record a request, and say what of it matched nothing if the caller may know. quiet: see `submit`.

    Raises WrongSampleKey, and what `ledger.requests.submission.submit` raises.
    """
    key = settings.sample_key_bytes
    check_sample_key(session, key)
    oldest, later = key[:KEY_BYTES], key[KEY_BYTES:]
    # Under the oldest key, by which a body is known again, and from that under the present one.
    first_samples = [sample_digest(oldest, asked.dataset or "", one) for one in asked.sample_ids or ()]
    first_people = [subject_digest(oldest, one) for one in asked.subjects or ()]
    digests = dict(zip((rehash(one, later) for one in first_samples), asked.sample_ids or (), strict=True))
    people = [rehash(one, later) for one in first_people]
    method = None if isinstance(asked.method, str) else asdict(asked.method)
    submission = Submission(
        tenant_id=caller.tenant_id,
        caller=caller.name,
        datasets=asked.datasets if asked.dataset is None else [asked.dataset],
        digests=list(digests),
        subjects=dict(zip(people, (commit_to_subject(key, one) for one in asked.subjects or ()), strict=True)),
        upload_id=asked.upload,
        models=asked.models,
        method=method,
        why_unsuitable=partial(why_unsuitable, str(method["kind"])) if method else lambda lacks: None,
        reason=asked.reason,
        regulation=asked.regulation,
        received_at=asked.received_at,
        external_id=asked.external_id,
        expedite=asked.expedite,
        escalate=asked.escalate,
    )
    idempotency = None
    if idempotency_key is not None:
        body = _hashed_body(asked, method, samples=first_samples, people=first_people)
        idempotency = Idempotency(
            tenant_id=caller.tenant_id,
            caller=caller.name,
            key=idempotency_key,
            body_sha256=hash_body(body, key=key),
        )
    request = submit(session, submission, window=settings.batch_window, idempotency=idempotency, quiet=quiet)
    if not caller.may(Scope.REQUESTS_READ):
        return request
    return request.model_copy(update=_unmatched(session, request, asked, digests, people))


def _unmatched(
    session: Session,
    request: UnlearnRequest,
    asked: NewUnlearnRequest,
    digests: Mapping[bytes, str],
    people: Sequence[bytes],
) -> dict[str, object]:
    """Say what of the body matched nothing, and how many samples each person has: known in the answer to the POST alone."""
    none = request.samples is not None and request.samples.not_in_training_set > 0
    if asked.upload is not None:
        none |= request.subjects is not None and request.subjects.matched < request.subjects.given
        return {
            "unmatched_lines": unmatched_lines(session, upload_id=asked.upload, request_id=request.id) if none else []
        }
    answer: dict[str, object] = {}
    if people:
        counts = count_subject_samples(session, request.id)
        answer["samples_by_subject"] = [counts.get(subject, 0) for subject in people]
    if digests and none:
        found = list_request_samples(session, request.id, SampleOutcome.NOT_IN_TRAINING_SET)
        answer["unmatched_sample_ids"] = sorted(digests[digest] for digest in found if digest in digests)
    return answer


def _hashed_body(
    asked: NewUnlearnRequest, method: Mapping[str, object] | None, *, samples: Iterable[bytes], people: Iterable[bytes]
) -> dict[str, object]:
    """Give what is asked, with the hashes of all samples and of all people, under the oldest key, in place of their IDs.

    Idempotency keys are kept for 30 days, also over an upgrade, so the fields keep the names that they had at first, and a newer
    one counts only where it is set.
    """
    fields = asked.model_dump(mode="json", exclude={"sample_ids", "subjects", "datasets", "upload", "method"})
    if asked.escalate is None:
        del fields["escalate"]
    newer: dict[str, object] = {} if asked.upload is None else {"manifest": str(asked.upload)}
    if asked.datasets is not None:
        newer["datasets"] = sorted(set(asked.datasets))
    if asked.subjects is not None:
        newer["subjects"] = samples_sha256(set(people))
    return {**fields, **newer, "validate_only": False, "method": method, "samples": samples_sha256(set(samples))}
