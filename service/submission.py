"""From a validated body to a request in the ledger: hashes the sample IDs at the door, records, or tries and takes back."""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.access import Caller, Scope
from ledger.canonical import canonical_sha256
from ledger.estimates import Estimate, estimate
from ledger.idempotency import Idempotency
from ledger.request_views import RequestView
from ledger.requests import list_request_samples, submit
from ledger.samples import manifest_sha256, sample_digest
from ledger.states import SampleOutcome
from ledger.tables import Job
from service.bodies.new_unlearn_request import NewUnlearnRequest
from service.bodies.unlearn_requests import (
    EstimateBody,
    PreviewBody,
    PreviewTargetBody,
    TargetBody,
    UnlearnRequestBody,
    told,
)
from service.methods import stored
from service.settings import Settings


def record_request(
    session: Session, asked: NewUnlearnRequest, caller: Caller, *, settings: Settings, idempotency_key: str | None
) -> UnlearnRequestBody:
    """Record a request and say what it means. Raises what `ledger.requests.submit` raises."""
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
    return canonical_sha256({**said, "method": method, "samples": manifest_sha256(digests)})


def _unmatched(session: Session, view: RequestView, caller: Caller, digests: dict[bytes, str]) -> list[str]:
    """Those of the sample IDs that no model in question was trained on."""
    outcome = SampleOutcome.NOT_IN_TRAINING_SET
    found = list_request_samples(session, tenant_id=caller.tenant_id, request_id=view.id, outcome=outcome)
    return sorted(digests[digest] for digest in found if digest in digests)
