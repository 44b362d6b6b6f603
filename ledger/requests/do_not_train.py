"""Do-not-train lists: the samples, and the people, that no training may use again, whether erased already or still to be erased."""

from collections.abc import Generator, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Subquery, or_, select, union
from sqlalchemy.orm import Session

from ledger.registry.datasets import find_dataset
from ledger.registry.models import find_model
from ledger.states import Reason, RequestState
from ledger.tables import Dataset, Model, Target, UnlearnRequest
from ledger.tables.samples import erased_samples, request_datasets, request_samples, request_subjects, subject_samples

CHUNK = 5000
"""How many digests are in memory at a time."""


def of_dataset(session: Session, *, tenant_id: UUID, name: str) -> Subquery:
    """Select what any model of a dataset has forgotten or is asked to forget, and all other samples of the people who ask for it.

    Withdrawn and dismissed requests do not count. Of a request over several datasets it has all samples; those of other datasets
    match none of this one. Raises UnknownDataset.
    """
    dataset = find_dataset(session, tenant_id=tenant_id, name=name)
    erased = (
        select(erased_samples.c.digest)
        .join(Model, Model.id == erased_samples.c.model_id)
        .where(Model.dataset_id == dataset.id)
    )
    asked = (
        select(request_samples.c.digest)
        .join(UnlearnRequest, UnlearnRequest.id == request_samples.c.request_id)
        .where(_concerns(dataset.id), *_counts())
    )
    return _together(erased, asked, _samples_of(_people_of_dataset(dataset), dataset.id))


def of_model(session: Session, *, tenant_id: UUID, name: str) -> Subquery:
    """Select what a model has forgotten or is asked to forget, and all other samples of the people who ask for it.

    Targets that were withdrawn or dismissed do not count. A request that named no models concerns this one as well, although it was
    trained on none of the samples so far: its next training may not use them either. Raises UnknownModel.
    """
    model = find_model(session, tenant_id=tenant_id, name=name)
    erased = select(erased_samples.c.digest).where(erased_samples.c.model_id == model.id)
    asked = (
        select(request_samples.c.digest)
        .join(Target, Target.request_id == request_samples.c.request_id)
        .join(UnlearnRequest, UnlearnRequest.id == Target.request_id)
        .where(*_targets(model))
    )
    elsewhere = (
        select(request_samples.c.digest)
        .join(UnlearnRequest, UnlearnRequest.id == request_samples.c.request_id)
        .where(*_without_target(model))
    )
    return _together(erased, asked, elsewhere, _samples_of(_people_of_model(model), model.dataset_id))


def people_of_dataset(session: Session, *, tenant_id: UUID, name: str) -> Subquery:
    """Select the subjects whose samples no training on a dataset may use, whether or not it has any now. Raises UnknownDataset."""
    dataset = find_dataset(session, tenant_id=tenant_id, name=name)
    return _together(*_people_of_dataset(dataset))


def people_of_model(session: Session, *, tenant_id: UUID, name: str) -> Subquery:
    """Select the subjects whose samples a model's next training must leave out. Raises UnknownModel."""
    return _together(*_people_of_model(find_model(session, tenant_id=tenant_id, name=name)))


def read_digests(session: Session, listed: Subquery) -> Generator[Sequence[bytes], None, None]:
    """Read the digests of a list in sorted order, each once, in chunks of CHUNK, through one server-side cursor.

    Close the generator if it is not run to completion.
    """
    rows = select(listed.c.digest).order_by(listed.c.digest)
    found = session.scalars(rows.execution_options(yield_per=CHUNK))
    try:
        yield from found.partitions()
    finally:
        found.close()


def _counts() -> tuple[ColumnElement[bool], ...]:
    """Select the requests that were neither withdrawn nor dismissed."""
    served = (UnlearnRequest.state != RequestState.CANCELLED) | UnlearnRequest.is_unserved()
    return UnlearnRequest.dismissed_at.is_(None), served


def _concerns(dataset_id: UUID) -> ColumnElement[bool]:
    """Select the requests that concern a dataset, as the only one or among several."""
    among = select(request_datasets.c.request_id).where(request_datasets.c.dataset_id == dataset_id)
    return or_(UnlearnRequest.dataset_id == dataset_id, UnlearnRequest.id.in_(among))


def _targets(model: Model) -> tuple[ColumnElement[bool], ...]:
    """Select the targets of a model that were neither withdrawn nor dismissed."""
    kept = (Target.state != RequestState.CANCELLED) | (Target.reason == Reason.APPROVAL_REFUSED)
    return Target.model_id == model.id, UnlearnRequest.dismissed_at.is_(None), kept


def _without_target(model: Model) -> tuple[ColumnElement[bool], ...]:
    """Select the requests for every model of a model's dataset of which it is no target: it knew none of the samples."""
    targeted = select(Target.request_id).where(Target.model_id == model.id)
    return (
        UnlearnRequest.every_model.is_(True),
        _concerns(model.dataset_id),
        UnlearnRequest.id.not_in(targeted),
        *_counts(),
    )


def _people() -> Select[bytes]:
    return select(request_subjects.c.subject.label("digest")).join(
        UnlearnRequest, UnlearnRequest.id == request_subjects.c.request_id
    )


def _everywhere(tenant_id: UUID) -> Select[bytes]:
    """Select the people of requests that concern every dataset of a tenant, also those that came later."""
    return _people().where(UnlearnRequest.tenant_id == tenant_id, UnlearnRequest.every_dataset, *_counts())


def _people_of_dataset(dataset: Dataset) -> list[Select[bytes]]:
    return [_people().where(_concerns(dataset.id), *_counts()), _everywhere(dataset.tenant_id)]


def _people_of_model(model: Model) -> list[Select[bytes]]:
    named = _people().join(Target, Target.request_id == UnlearnRequest.id).where(*_targets(model))
    return [named, _people().where(*_without_target(model)), _everywhere(model.tenant_id)]


def _samples_of(people: Sequence[Select[bytes]], dataset_id: UUID) -> Select[bytes]:
    """Select all samples that these people have in a dataset now, also those that came after their requests."""
    listed = _together(*people)
    return (
        select(subject_samples.c.digest)
        .join(listed, listed.c.digest == subject_samples.c.subject)
        .where(subject_samples.c.dataset_id == dataset_id)
    )


def _together(*parts: Select[bytes]) -> Subquery:
    return union(*parts).subquery()
