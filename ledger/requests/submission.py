"""Submission: record a request, match its samples with each model, and let it join the models' jobs.

Matching finds whose samples a request means, which models it concerns, and which of its samples each of them has to erase.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, FromClause, case, func, literal, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import allow_long_statements, now
from ledger.errors import InvalidTime, MethodUnsuitable, NoSamplesMatch, UnknownModel, UnknownUpload
from ledger.events.outbox import announce_wakeup
from ledger.events.timeline import record
from ledger.jobs.transitions import advance, fold_requests
from ledger.registry.datasets import commit_to_digests, digest_tables, find_datasets
from ledger.registry.models import CHECKPOINTS
from ledger.requests.batching import Wakeups, join_job
from ledger.requests.deadlines import due_at, rule
from ledger.requests.idempotency import Idempotency, find_replay, store_key
from ledger.requests.requests import get_request
from ledger.requests.uploads import find_upload
from ledger.sample_ids import samples_sha256
from ledger.states import Escalation, Reason, RequestState, SampleOutcome
from ledger.tables import Dataset, Model, ReferenceSet, Target, UnlearnRequest, Upload
from ledger.tables.samples import (
    erased_samples,
    request_datasets,
    request_samples,
    request_subject_samples,
    request_subjects,
    subject_samples,
    training_samples,
    uploaded_samples,
)
from ledger.transparency.log import log_request
from report.formatting import any_of

FIRST_YEAR = 2000
"""No request under a law that this service knows is older."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far a caller's clock may be ahead of the database's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Who asks for what: the erasure of samples from the named models, or from every model of the datasets.

    caller: the name of the key that asked. datasets: by their names; None for every dataset of the tenant, or for those of the
    named models. digests: of samples of the one dataset. subjects: digests of people whose samples are meant, in each of the
    datasets, each with the sealed commitment (`ledger.sample_ids.commit_to_subject`). Or upload_id: of a list of either that was
    uploaded. What is given twice, or in both ways, counts once.
    method: None for the models' own policies. why_unsuitable: tells, given what a model lacks, why the method cannot run on it, or
    None if it can. received_at: when the person asked, by default now. Deadlines count in its time zone.
    """

    tenant_id: UUID
    caller: str
    datasets: Sequence[str] | None
    digests: Sequence[bytes] = ()
    subjects: Mapping[bytes, bytes] = field(default_factory=dict)
    upload_id: UUID | None = None
    models: Sequence[str] | None = None
    method: Mapping[str, Any] | None = None
    why_unsuitable: Callable[[Collection[str]], str | None] = lambda lacks: None
    reason: str | None = None
    regulation: str = "gdpr"
    received_at: datetime | None = None
    external_id: str | None = None
    expedite: bool = False
    escalate: Escalation | None = None


def submit(
    session: Session,
    asked: Submission,
    *,
    window: timedelta,
    idempotency: Idempotency | None = None,
    quiet: bool = False,
) -> resources.UnlearnRequest:
    """Record a request, and let it join the open jobs of its models. It is completed at once if all of its samples were erased.

    window: for how long a job that it opens waits for further requests.
    With the idempotency key of an earlier request, that request is returned and nothing is written.
    quiet: whether the caller must not learn who is in a training set. A request in which nothing matches is then recorded too, as
    rejected for every model, and a method must suit all models, whichever match.

    Raises UnknownDataset, UnknownModel, UnknownUpload, NoSamplesMatch, UnknownRegulation, InvalidTime, MethodUnsuitable,
    IdempotencyMismatch and IdempotencyInProgress. The caller's transaction must then be rolled back.
    """
    tenant_id = asked.tenant_id
    if idempotency is not None:
        earlier = find_replay(session, idempotency)
        if earlier is not None:
            return get_request(session, tenant_id=tenant_id, request_id=earlier)
    upload = None if asked.upload_id is None else find_upload(session, tenant_id=tenant_id, upload_id=asked.upload_id)
    datasets, every_dataset = _datasets(session, asked, upload)
    models = _touched_models(session, datasets, asked.models)
    if every_dataset and asked.models:
        learned, every_dataset = {model.dataset_id for model in models}, False
        datasets = [one for one in datasets if one.id in learned]
    moment = now(session)
    received_at = asked.received_at or moment
    check_receipt(received_at, moment)
    due, offset = due_at(asked.regulation, received_at), received_at.utcoffset()
    assert offset is not None  # `due_at` refuses a time without a zone
    request = UnlearnRequest(
        tenant_id=tenant_id,
        dataset_id=datasets[0].id,
        every_dataset=every_dataset,
        every_model=asked.models is None,
        caller=asked.caller,
        method=None if asked.method is None else dict(asked.method),
        reason=asked.reason,
        regulation=asked.regulation,
        received_at=received_at,
        received_offset=round(offset.total_seconds()),
        due_at=due,
        external_id=asked.external_id,
        expedite=asked.expedite,
        escalate=asked.escalate,
    )
    session.add(request)
    session.flush()
    record(
        session, "request.received", {"due_at": due, "regulation": rule(asked.regulation).title}, request_id=request.id
    )
    if quiet:
        for model in models:
            _check_method(session, model, asked)
    committed = _match(session, request, asked, datasets, models, upload=upload)
    matched = request.accepted + request.already_erased > 0
    if not matched and not (quiet and models):
        raise _without_match(request)
    named = asked.models is not None or not matched
    targets = _add_targets(session, request, asked, models, named=named, window=window)
    _record_datasets(session, request, datasets, targets)
    if idempotency is not None:
        store_key(session, idempotency, request_id=request.id)
    session.flush()
    log_request(session, request, **committed)
    return get_request(session, tenant_id=tenant_id, request_id=request.id)


def check_receipt(received_at: datetime, moment: datetime) -> None:
    """Check when a person asked, at this moment. Raises InvalidTime for a time in the future, and for one before any such law."""
    if received_at.year < FIRST_YEAR:
        raise InvalidTime(f"received_at must be in the year {FIRST_YEAR} or later")
    if received_at.tzinfo is not None and received_at > moment + MAX_CLOCK_SKEW:
        raise InvalidTime(f"received_at must not be in the future; now is {moment.isoformat(timespec='seconds')}")


def _datasets(session: Session, asked: Submission, upload: Upload | None) -> tuple[list[Dataset], bool]:
    """Find the datasets in which a request means samples, by name, and tell whether these are all of the tenant's.

    Raises UnknownDataset, UnknownUpload, NoSamplesMatch.
    """
    if upload is not None and upload.dataset_id is not None:
        own = session.get_one(Dataset, upload.dataset_id)
        if asked.datasets is not None and list(asked.datasets) != [own.name]:
            raise UnknownUpload(f"the upload {upload.id} is of another dataset")
        return [own], False
    found = find_datasets(session, tenant_id=asked.tenant_id, names=asked.datasets)
    if not found:
        raise NoSamplesMatch("there is no dataset yet")
    return found, asked.datasets is None


def _match(
    session: Session,
    request: UnlearnRequest,
    asked: Submission,
    datasets: Sequence[Dataset],
    models: Sequence[Model],
    *,
    upload: Upload | None,
) -> dict[str, str]:
    """Record the request's people and samples. Gives the SHA-256 that commits to its samples, and the one to its people."""
    tables: list[FromClause] = [*digest_tables(asked.digests)]
    people: list[FromClause] = [*digest_tables(asked.subjects.keys(), commitment=asked.subjects.values())]
    if upload is not None:
        uploaded = uploaded_samples.c
        mine = select(uploaded.digest, uploaded.commitment).where(uploaded.upload_id == upload.id).subquery()
        if upload.dataset_id is None:
            people.append(mine)
        else:
            tables.append(mine)
    if upload is not None or people:
        allow_long_statements(session)
    if people:
        _record_subjects(session, request, datasets, models, people)
    _record_samples(session, request, models, tables)
    if people:
        meant, named = request_samples.c, request_subjects.c
        samples = commit_to_digests(session, meant.digest, meant.request_id == request.id)
        whose = commit_to_digests(session, named.subject, named.request_id == request.id)
        return {"samples_sha256": samples, "subjects_sha256": whose}
    return {"samples_sha256": samples_sha256(asked.digests) if upload is None else upload.sha256}


def _add_targets(
    session: Session,
    request: UnlearnRequest,
    asked: Submission,
    models: Sequence[Model],
    *,
    named: bool,
    window: timedelta,
) -> list[Model]:
    """Add a target for each model, and give these models. A target joins a job, or ends at once if it has nothing to erase.

    The jobs of all models are locked, in the order of the models, before the first wake-up is announced.

    A model that was trained on none of the samples gets a target only if `named`. Raises MethodUnsuitable.
    """
    total = request.accepted + request.already_erased + request.not_in_training_set
    wakeups: Wakeups = []
    targets: list[Model] = []
    for model, learned, erased in _match_models(session, request, models):
        if not learned and not named:
            continue
        target = Target(
            request_id=request.id,
            model_id=model.id,
            accepted=learned - erased,
            already_erased=erased,
            not_in_training_set=total - learned,
        )
        session.add(target)
        session.flush()
        targets.append(model)
        data = {"model": model.name, "samples": learned - erased}
        if not learned:
            advance(session, Target, [target.id], RequestState.REJECTED, data=data, reason=Reason.NOT_IN_TRAINING_SET)
        elif learned == erased:
            advance(session, Target, [target.id], RequestState.COMPLETED, data=data, reason=Reason.ALREADY_ERASED)
        else:
            _check_method(session, model, asked)
            job = join_job(session, request, model, samples=learned - erased, window=window, wakeups=wakeups)
            advance(session, Target, [target.id], RequestState.SCHEDULED, data=data, job_id=job.id)
    fold_requests(session, [request.id])
    for job_id, at in wakeups:
        announce_wakeup(session, job_id, at=at)
    return targets


def _check_method(session: Session, model: Model, asked: Submission) -> None:
    """Raise MethodUnsuitable if the request's method cannot run on a model. What is not known of it is left to the job."""
    if model.lacks is None:
        return
    lacks = {
        *model.lacks,
        *([] if session.get(ReferenceSet, model.id) else ["references"]),
        *([] if model.details.get(CHECKPOINTS) else ["slices"]),
    }
    why = asked.why_unsuitable(lacks)
    if why is not None:
        raise MethodUnsuitable(f"the model {model.name!r} cannot be unlearned by this method: {why}")


def _touched_models(session: Session, datasets: Sequence[Dataset], names: Sequence[str] | None) -> list[Model]:
    """Find the models that a request concerns, in the order in which their jobs are locked. Raises UnknownModel."""
    of_these = Model.dataset_id.in_([dataset.id for dataset in datasets])
    trained = list(session.scalars(select(Model).where(of_these).order_by(Model.id)))
    if names is None:
        return trained
    missing = sorted(set(names) - {model.name for model in trained})
    if missing:
        of = f"the dataset {datasets[0].name!r}" if len(datasets) == 1 else "one of the datasets"
        raise UnknownModel(f"there is no model named {', '.join(map(repr, missing))} trained on {of}")
    return [model for model in trained if model.name in names]


def _record_subjects(
    session: Session,
    request: UnlearnRequest,
    datasets: Sequence[Dataset],
    models: Sequence[Model],
    people: Iterable[FromClause],
) -> None:
    """Store the subjects that a request names, each with how many samples it has in the datasets, and these samples.

    people: tables of subjects, in the columns `digest` and `commitment` (sealed, or null). One statement reads whose samples they
    are: an import that commits meanwhile counts for both or for neither. None of what is joined here has just been written: see
    `registry.datasets`.
    """
    for given in people:
        columns = given.c.digest.label("subject"), given.c.commitment, subject_samples.c.digest
        found = select(*columns).select_from(given)
        theirs = (subject_samples.c.subject == given.c.digest) & _in(datasets)
        owned = found.outerjoin(subject_samples, theirs).cte("owned")
        counted = (
            select(literal(request.id), owned.c.subject, func.count(owned.c.digest), owned.c.commitment)
            .group_by(owned.c.subject, owned.c.commitment)
            .order_by(owned.c.subject)
        )
        subjects = insert(request_subjects).from_select(["request_id", "subject", "samples", "commitment"], counted)
        known = owned.c.digest.is_not(None)
        whose = select(literal(request.id), owned.c.subject, owned.c.digest).where(known)
        ordered = whose.order_by(owned.c.subject, owned.c.digest)
        pairs = insert(request_subject_samples).from_select(["request_id", "subject", "digest"], ordered)
        session.execute(
            _record_outcomes(request, models, select(owned.c.digest).where(known).subquery())
            .add_cte(subjects.on_conflict_do_nothing().cte("subjects"))
            .add_cte(pairs.on_conflict_do_nothing().cte("pairs"))
        )
    mine = request_subjects.c.request_id == request.id
    counts = select(func.count(), func.count().filter(request_subjects.c.samples > 0)).where(mine)
    request.subjects_given, request.subjects_matched = session.execute(counts).one()


def _in(datasets: Sequence[Dataset]) -> ColumnElement[bool]:
    return subject_samples.c.dataset_id.in_([dataset.id for dataset in datasets])


def _record_datasets(
    session: Session, request: UnlearnRequest, datasets: Sequence[Dataset], models: Sequence[Model]
) -> None:
    """Store which datasets the request concerns: those that it names, or else those in which its subjects have samples.

    models: those that have become its targets. The dataset of one of them becomes the one that the request's own row names.
    """
    found = {dataset.id for dataset in datasets}
    targets = {model.dataset_id for model in models}
    if request.every_dataset:
        theirs = select(subject_samples.c.dataset_id).join(
            request_subjects, request_subjects.c.subject == subject_samples.c.subject
        )
        held = session.scalars(theirs.where(request_subjects.c.request_id == request.id, _in(datasets)).distinct())
        found &= {*held, *targets}
    order = [dataset.id for dataset in datasets if dataset.id in found]
    request.dataset_id = next((dataset_id for dataset_id in order if dataset_id in targets), order[0])
    further = [{"request_id": request.id, "dataset_id": other} for other in order if other != request.dataset_id]
    if further:
        session.execute(insert(request_datasets), further)


def _record_samples(
    session: Session, request: UnlearnRequest, models: Sequence[Model], tables: Iterable[FromClause]
) -> None:
    """Store the request's samples, each with its outcome over all models, and count the outcomes, those of its subjects too.

    tables: with the column `digest`.
    """
    for given in tables:
        session.execute(_record_outcomes(request, models, given))
    counted = (
        select(request_samples.c.outcome, func.count())
        .where(request_samples.c.request_id == request.id)
        .group_by(request_samples.c.outcome)
    )
    for of_outcome, count in session.execute(counted):
        setattr(request, of_outcome.value, count)


def _without_match(request: UnlearnRequest) -> NoSamplesMatch:
    if request.subjects_given is not None:
        # No number: it would tell whether somebody without a trained sample is known at all.
        return NoSamplesMatch(
            "no sample of these subjects is in the training set of any of the models; a dataset learns whose samples it has from "
            "`expunge register` and `expunge subjects import`"
        )
    return NoSamplesMatch(f"no model was trained on {any_of(request.not_in_training_set, 'sample')}")


def _record_outcomes(request: UnlearnRequest, models: Sequence[Model], given: FromClause) -> Insert:
    """Build the statement that stores samples, in the column `digest`, each with its outcome over all models."""
    model_ids = [model.id for model in models]
    learned = func.count(training_samples.c.model_id)
    outcome = case(
        (learned > func.count(erased_samples.c.model_id), literal(SampleOutcome.ACCEPTED.value)),
        (learned > 0, literal(SampleOutcome.ALREADY_ERASED.value)),
        else_=literal(SampleOutcome.NOT_IN_TRAINING_SET.value),
    )
    meant = (
        select(literal(request.id), given.c.digest, outcome)
        .select_from(given)
        .outerjoin(
            training_samples,
            (training_samples.c.digest == given.c.digest) & training_samples.c.model_id.in_(model_ids),
        )
        .outerjoin(
            erased_samples,
            (erased_samples.c.digest == given.c.digest) & (erased_samples.c.model_id == training_samples.c.model_id),
        )
        .group_by(given.c.digest)
        .order_by(given.c.digest)  # an index filled in order is faster to write, and smaller
    )
    return insert(request_samples).from_select(["request_id", "digest", "outcome"], meant).on_conflict_do_nothing()


def _match_models(session: Session, request: UnlearnRequest, models: Sequence[Model]) -> list[tuple[Model, int, int]]:
    """For each model count the request's samples that it was trained on, and those of them that it has forgotten."""
    counted = (
        select(training_samples.c.model_id, func.count(), func.count(erased_samples.c.digest))
        .select_from(request_samples)
        .join(training_samples, training_samples.c.digest == request_samples.c.digest)
        .outerjoin(
            erased_samples,
            (erased_samples.c.digest == request_samples.c.digest)
            & (erased_samples.c.model_id == training_samples.c.model_id),
        )
        .where(
            request_samples.c.request_id == request.id, training_samples.c.model_id.in_([model.id for model in models])
        )
        .group_by(training_samples.c.model_id)
    )
    found = {model_id: (learned, erased) for model_id, learned, erased in session.execute(counted)}
    return [(model, *found.get(model.id, (0, 0))) for model in models]
