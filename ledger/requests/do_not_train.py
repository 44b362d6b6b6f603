"""Do-not-train lists: the samples that no training may use again, whether they are erased already or still to be erased."""

from collections.abc import Generator, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Subquery, or_, select, union
from sqlalchemy.orm import Session

from ledger.errors import UnknownModel
from ledger.registry.datasets import find_dataset
from ledger.states import Reason, RequestState
from ledger.tables import Dataset, Model, Target, UnlearnRequest
from ledger.tables.samples import erased_samples, request_datasets, request_samples

CHUNK = 5000
"""How many digests are in memory at a time."""


def of_dataset(session: Session, *, tenant_id: UUID, name: str) -> Subquery:
    """Select what any model of a dataset has forgotten or is asked to forget. Withdrawn and dismissed requests do not count.

    Of a request over several datasets it has all samples; those of other datasets match none of this one. Raises UnknownDataset.
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
        .where(_concerns(dataset), UnlearnRequest.dismissed_at.is_(None))
        .where((UnlearnRequest.state != RequestState.CANCELLED) | UnlearnRequest.is_unserved())
    )
    return _together(erased, asked)


def _concerns(dataset: Dataset) -> ColumnElement[bool]:
    """Select the requests that concern a dataset, as the only one or among several."""
    among = select(request_datasets.c.request_id).where(request_datasets.c.dataset_id == dataset.id)
    return or_(UnlearnRequest.dataset_id == dataset.id, UnlearnRequest.id.in_(among))


def of_model(session: Session, *, tenant_id: UUID, name: str) -> Subquery:
    """Select what a model has forgotten or is asked to forget; targets that were withdrawn or dismissed do not count.

    Raises UnknownModel.
    """
    model_id = session.scalar(select(Model.id).where(Model.tenant_id == tenant_id, Model.name == name))
    if model_id is None:
        raise UnknownModel(f"there is no model named {name!r}")
    erased = select(erased_samples.c.digest).where(erased_samples.c.model_id == model_id)
    asked = (
        select(request_samples.c.digest)
        .join(Target, Target.request_id == request_samples.c.request_id)
        .join(UnlearnRequest, UnlearnRequest.id == Target.request_id)
        .where(Target.model_id == model_id, UnlearnRequest.dismissed_at.is_(None))
        .where((Target.state != RequestState.CANCELLED) | (Target.reason == Reason.APPROVAL_REFUSED))
    )
    return _together(erased, asked)


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


def _together(erased: Select[bytes], asked: Select[bytes]) -> Subquery:
    return union(erased, asked).subquery()
