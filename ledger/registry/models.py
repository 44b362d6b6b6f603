"""Models, with their served version."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.db import milliseconds
from ledger.errors import AlreadyRegistered, ModelBusy, UnknownModel
from ledger.events.timeline import record
from ledger.registry.datasets import check_name, check_registered, count_common, find_dataset, insert_digests
from ledger.states import Escalation, VersionKind
from ledger.tables import Dataset, Job, Model, ModelVersion, Report
from ledger.tables.samples import erased_samples, training_samples
from ledger.transparency.log import log_promotion

RESERVED = timedelta(hours=1)
"""How long a process that is frozen may keep a model reserved. A large file is written in this time."""

CHECKPOINTS = "checkpoints"
"""The entry of a model's details that lists the weights after slices of its training. The `path` of each is a file's name."""


def register_model(
    session: Session,
    *,
    tenant_id: UUID,
    name: str,
    dataset: str,
    workload: str,
    training: Iterable[bytes],
    weights_sha256: str,
    weights_path: str,
    policy: Sequence[Mapping[str, Any]],
    details: Mapping[str, Any],
    approve_utility_drop: float | None = None,
    lacks: Collection[str] | None = None,
) -> resources.Model:
    """Register a trained model as version 1, with the digests of the samples that it was trained on.

    lacks: what methods may need and it does not have; None if that is not known.
    approve_utility_drop: points of merit, 0 to 100, beyond which a version of it awaits approval; None for the table's default.
    Raises InvalidName, UnknownDataset, AlreadyRegistered if the name is taken, SamplesNotInDataset, and ValueError for an empty
    policy.
    """
    check_name(name, of="model")
    of_dataset = find_dataset(session, tenant_id=tenant_id, name=dataset)
    made = (
        insert(Model)
        .values(
            tenant_id=tenant_id,
            dataset_id=of_dataset.id,
            name=name,
            workload=workload,
            policy=_checked(policy),
            details=dict(details),
            training_count=0,
            lacks=None if lacks is None else sorted(lacks),
            **({} if approve_utility_drop is None else {"approve_utility_drop": approve_utility_drop}),
        )
        .on_conflict_do_nothing()
        .returning(Model)
    )
    model = session.scalars(made).one_or_none()
    if model is None:
        raise AlreadyRegistered(
            f"a model named {name!r} is registered already; `expunge register-version` adds retrained weights to it, and `expunge "
            "policy` changes the methods that it tries"
        )
    model.training_count += insert_digests(session, training_samples, "model_id", model.id, training)
    seen = select(training_samples.c.digest).where(training_samples.c.model_id == model.id)
    check_registered(session, seen, dataset_id=of_dataset.id)
    version = ModelVersion(
        model_id=model.id, number=1, kind=VersionKind.TRAINED, weights_sha256=weights_sha256, weights_path=weights_path
    )
    session.add(version)
    # It should not have been trained on what other models of its dataset have erased.
    of_others = select(erased_samples.c.digest).join(Model, Model.id == erased_samples.c.model_id)
    model.trained_on_erased = count_common(session, seen, of_others.where(Model.dataset_id == of_dataset.id))
    session.flush()
    model.served_version_id = version.id
    session.flush()
    log_promotion(session, model, version)
    return get_model(session, tenant_id=tenant_id, name=name)


def set_escalation(
    session: Session,
    *,
    tenant_id: UUID,
    model: str,
    escalate: Escalation | None = None,
    batch_until_samples: int | None = None,
    by: str,
) -> None:
    """Set how the model's next jobs escalate, and for how many samples they stay open (0: none). None leaves it as it is.

    Raises UnknownModel.
    """
    row = lock_model(session, tenant_id=tenant_id, name=model)
    if escalate is None and batch_until_samples is None:
        return
    row.escalate = escalate or row.escalate
    if batch_until_samples is not None:
        row.batch_until_samples = batch_until_samples or None
    data = {"escalate": row.escalate, "batch_until_samples": row.batch_until_samples, "by": by}
    record(session, "model.escalation", data, model_id=row.id)
    session.flush()


def set_policy(session: Session, model: Model, policy: Sequence[Mapping[str, Any]], *, by: str) -> None:
    """Replace a locked model's policy, the order in which jobs that are opened or retried from now on try the methods.

    Raises ValueError for an empty policy.
    """
    model.policy = _checked(policy)
    record(session, "model.policy", {"policy": model.policy, "by": by}, model_id=model.id)
    session.flush()


def _checked(policy: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not policy:
        raise ValueError("a model's policy must name at least one method")
    return [dict(spec) for spec in policy]


def set_checkpoints(model: Model, checkpoints: Sequence[Mapping[str, Any]]) -> None:
    """Replace what a locked model's details say of weights after slices of its training; see `worker.slices`."""
    model.details = {**model.details, CHECKPOINTS: [dict(entry) for entry in checkpoints]}


def lock_model(session: Session, *, tenant_id: UUID, name: str) -> Model:
    """Lock a tenant's model until the transaction ends, and read it anew. Raises UnknownModel."""
    mine = select(Model).where(Model.tenant_id == tenant_id, Model.name == name)
    model = session.scalar(mine.with_for_update(key_share=True).execution_options(populate_existing=True))
    if model is None:
        raise UnknownModel(f"there is no model named {name!r}")
    return model


def lock_idle_model(session: Session, *, tenant_id: UUID, name: str) -> Model:
    """Lock a tenant's model, which no job may hold. Raises UnknownModel, ModelBusy."""
    model = lock_model(session, tenant_id=tenant_id, name=name)
    check_idle(session, model)
    return model


def check_idle(session: Session, model: Model) -> None:
    """Raise ModelBusy if a job holds the model."""
    busy = session.scalar(select(Job.id).where(Job.model_id == model.id, Job.holds_model))
    if busy is not None:
        raise ModelBusy(f"job {busy} of {model.name!r} is running or awaits approval; wait for its end, or cancel it")


def reserve_model(session: Session, model_id: UUID) -> None:
    """Keep jobs of a model from being claimed until this transaction ends; one that holds it goes on.

    So the end of that job is an idle moment, however many jobs wait. The transaction may wait RESERVED for its client.
    """
    seconds = milliseconds(RESERVED.total_seconds())
    session.execute(select(func.set_config("idle_in_transaction_session_timeout", seconds, True)))
    session.execute(select(func.pg_advisory_xact_lock(_reservation(model_id))))


def is_reserved(session: Session, model_id: UUID) -> bool:
    """Return whether a model is reserved by another transaction; if not, it cannot be until this one ends."""
    return not session.scalar(select(func.pg_try_advisory_xact_lock_shared(_reservation(model_id))))


def _reservation(model_id: UUID) -> ColumnElement[int]:
    return func.hashtextextended(f"reservation of {model_id}", 0)


def find_model(session: Session, *, tenant_id: UUID, name: str) -> Model:
    """Find the row of a tenant's model. Raises UnknownModel."""
    model = session.scalar(select(Model).where(Model.tenant_id == tenant_id, Model.name == name))
    if model is None:
        raise UnknownModel(f"there is no model named {name!r}")
    return model


def find_served(session: Session, *, tenant_id: UUID, model: str) -> ModelVersion:
    """Find the row of the version that a model serves. Raises UnknownModel."""
    found = select(ModelVersion).join(Model, Model.served_version_id == ModelVersion.id)
    version = session.scalar(found.where(Model.tenant_id == tenant_id, Model.name == model))
    if version is None:
        raise UnknownModel(f"there is no model named {model!r}")
    return version


def get_model(session: Session, *, tenant_id: UUID, name: str) -> resources.Model:
    """Read one model by its name. Raises UnknownModel."""
    found = _read(session, tenant_id=tenant_id, name=name)
    if not found:
        raise UnknownModel(f"there is no model named {name!r}")
    return found[0]


def list_models(session: Session, *, tenant_id: UUID) -> list[resources.Model]:
    """List all models of a tenant, by name."""
    return _read(session, tenant_id=tenant_id, name=None)


def _read(session: Session, *, tenant_id: UUID, name: str | None) -> list[resources.Model]:
    erased = select(func.count()).where(erased_samples.c.model_id == Model.id).correlate(Model).scalar_subquery()
    chosen = (
        select(Model, Dataset.name, erased, ModelVersion, Report.id)
        .join(Dataset, Dataset.id == Model.dataset_id)
        .join(ModelVersion, ModelVersion.id == Model.served_version_id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(Model.tenant_id == tenant_id)
        .order_by(Model.name)
    )
    if name is not None:
        chosen = chosen.where(Model.name == name)
    return [
        resources.Model(
            id=model.id,
            name=model.name,
            dataset=dataset,
            workload=model.workload,
            policy=tuple(model.policy),
            details=model.details,
            training_samples=model.training_count,
            erased_samples=erased_count,
            trained_on_erased=model.trained_on_erased,
            escalate=model.escalate,
            batch_until_samples=model.batch_until_samples,
            approve_jobs=model.approve_jobs,
            approve_versions=model.approve_versions,
            approve_utility_drop=model.approve_utility_drop,
            lacks=None if model.lacks is None else tuple(model.lacks),
            worker_check=_to_check(model),
            version=to_version(model, version, report_id),
            created_at=model.created_at,
        )
        for model, dataset, erased_count, version, report_id in session.execute(chosen)
    ]


def _to_check(model: Model) -> resources.WorkerCheck | None:
    if model.check_asked_at is None:
        return None
    return resources.WorkerCheck(asked_at=model.check_asked_at, ended_at=model.check_ended_at, fault=model.check_fault)


def list_versions(session: Session, *, tenant_id: UUID, model: str) -> list[resources.Version]:
    """List all versions of a model, newest first. Raises UnknownModel."""
    chosen = (
        select(Model, ModelVersion, Report.id)
        .join(ModelVersion, ModelVersion.model_id == Model.id)
        .outerjoin(Report, Report.version_id == ModelVersion.id)
        .where(Model.tenant_id == tenant_id, Model.name == model)
        .order_by(ModelVersion.number.desc())
    )
    versions = [to_version(of, version, report_id) for of, version, report_id in session.execute(chosen)]
    if not versions:
        raise UnknownModel(f"there is no model named {model!r}")
    return versions


def to_version(model: Model, version: ModelVersion, report_id: UUID | None) -> resources.Version:
    """Give one version as it may be seen; `report_id` is that of its audit."""
    return resources.Version(
        id=version.id,
        model=model.name,
        number=version.number,
        kind=version.kind,
        weights_sha256=version.weights_sha256,
        job_id=version.job_id,
        report_id=report_id,
        served=version.id == model.served_version_id,
        refused_at=version.refused_at,
        created_at=version.created_at,
    )
