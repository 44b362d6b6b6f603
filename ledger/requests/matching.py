"""Matching: whose samples a request means, which models it concerns, and which of its samples each of them has to erase."""

from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, FromClause, case, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.errors import NoSamplesMatch, UnknownModel
from ledger.registry.datasets import chunks, digest_table
from ledger.states import SampleOutcome
from ledger.tables import Dataset, Model, UnlearnRequest
from ledger.tables.samples import (
    erased_samples,
    request_datasets,
    request_samples,
    request_subjects,
    subject_samples,
    training_samples,
)


def touched_models(session: Session, datasets: Sequence[Dataset], names: Sequence[str] | None) -> list[Model]:
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


def record_subjects(
    session: Session, request: UnlearnRequest, datasets: Sequence[Dataset], people: Iterable[FromClause]
) -> None:
    """Store the subjects that a request names, each with how many samples it has in the datasets, and count them.

    people: tables of subjects, in the column `digest`. None of what is joined here has just been written: see `registry.datasets`.
    """
    for given in people:
        theirs = (subject_samples.c.subject == given.c.digest) & _in(datasets)
        found = (
            select(literal(request.id), given.c.digest, func.count(subject_samples.c.digest))
            .select_from(given)
            .outerjoin(subject_samples, theirs)
            .group_by(given.c.digest)
            .order_by(given.c.digest)
        )
        added = insert(request_subjects).from_select(["request_id", "subject", "samples"], found)
        session.execute(added.on_conflict_do_nothing())
    mine = request_subjects.c.request_id == request.id
    counted = select(func.count(), func.count().filter(request_subjects.c.samples > 0)).where(mine)
    request.subjects_given, request.subjects_matched = session.execute(counted).one()


def samples_of(datasets: Sequence[Dataset], people: Iterable[FromClause]) -> Iterator[FromClause]:
    """Give the samples of subjects in these datasets as tables with the column `digest`; one of two subjects may come twice."""
    for given in people:
        theirs = (subject_samples.c.subject == given.c.digest) & _in(datasets)
        yield select(subject_samples.c.digest).select_from(given).join(subject_samples, theirs).subquery()


def _in(datasets: Sequence[Dataset]) -> ColumnElement[bool]:
    return subject_samples.c.dataset_id.in_([dataset.id for dataset in datasets])


def record_datasets(
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


def count_subject_samples(session: Session, request_id: UUID) -> dict[bytes, int]:
    """Give how many samples each subject of a request had in its datasets when it came."""
    chosen = select(request_subjects.c.subject, request_subjects.c.samples)
    return dict(session.execute(chosen.where(request_subjects.c.request_id == request_id)).all())


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
        if request.subjects_given is not None:
            # No number: it would tell whether somebody without a trained sample is known at all.
            raise NoSamplesMatch(
                "no sample of these subjects is in the training set of any of the models; a dataset learns whose samples it has "
                "from `expunge register` and `expunge subjects import`"
            )
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
