"""Matching: which models a request concerns, and which of its samples each of them has to erase."""

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import FromClause, case, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.errors import NoSamplesMatch, UnknownModel
from ledger.registry.datasets import chunks, digest_table
from ledger.states import SampleOutcome
from ledger.tables import Dataset, Model, UnlearnRequest
from ledger.tables.samples import erased_samples, request_samples, training_samples


def touched_models(session: Session, dataset: Dataset, names: Sequence[str] | None) -> list[Model]:
    """Find the models that a request concerns, in the order in which their jobs are locked. Raises UnknownModel."""
    trained = list(session.scalars(select(Model).where(Model.dataset_id == dataset.id).order_by(Model.id)))
    if names is None:
        return trained
    missing = sorted(set(names) - {model.name for model in trained})
    if missing:
        raise UnknownModel(
            f"there is no model named {', '.join(map(repr, missing))} trained on the dataset {dataset.name!r}"
        )
    return [model for model in trained if model.name in names]


def digest_tables(digests: Sequence[bytes]) -> Iterator[FromClause]:
    """Give digests as tables with the column `digest`, each of a size that one statement takes."""
    return map(digest_table, chunks(digests))


def record_samples(
    session: Session, request: UnlearnRequest, models: Sequence[Model], tables: Iterable[FromClause]
) -> None:
    """Store the request's samples, each with its outcome over all models, and count the outcomes.

    tables: with the column `digest`. Raises NoSamplesMatch.
    """
    model_ids = [model.id for model in models]
    for given in tables:
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
                (erased_samples.c.digest == given.c.digest)
                & (erased_samples.c.model_id == training_samples.c.model_id),
            )
            .group_by(given.c.digest)
            .order_by(given.c.digest)  # an index filled in order is faster to write, and smaller
        )
        session.execute(
            insert(request_samples).from_select(["request_id", "digest", "outcome"], meant).on_conflict_do_nothing()
        )
    counted = (
        select(request_samples.c.outcome, func.count())
        .where(request_samples.c.request_id == request.id)
        .group_by(request_samples.c.outcome)
    )
    for of_outcome, count in session.execute(counted):
        setattr(request, of_outcome.value, count)
    if not request.accepted and not request.already_erased:
        raise NoSamplesMatch(
            f"none of the {request.not_in_training_set} samples is in the training set of any of the models"
        )


def match_models(session: Session, request: UnlearnRequest, models: Sequence[Model]) -> list[tuple[Model, int, int]]:
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
