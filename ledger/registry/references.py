"""The reference predictions of a model: which file holds them. The file itself is in the storage, named by its digest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.errors import ErasedMeanwhile
from ledger.registry.models import lock_idle_model, set_policy
from ledger.tables import Model, ReferenceSet
from ledger.tables.samples import erased_samples

MATCHING = {"kind": "matching"}
"""The method that only references make possible; a model that has them tries it first, after `CHEAP_EXACT`."""

CHEAP_EXACT = frozenset({"drop_adapter", "rewind"})
"""Methods at the beginning of a policy that are exact, and refuse where they would not be cheap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFile:
    """A file of reference predictions. path: its name in the storage."""

    sha256: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPolicies:
    """What a policy ends in by default: without reference predictions, and with them."""

    without: Sequence[Mapping[str, Any]]
    with_references: Sequence[Mapping[str, Any]]


def register_references(
    session: Session,
    *,
    tenant_id: UUID,
    model: str,
    file: ReferenceFile,
    details: Mapping[str, Any],
    defaults: DefaultPolicies | None = None,
    erased: Collection[bytes] = (),
) -> None:
    """Register a model's reference predictions, in place of earlier ones, and let its policy try what they make possible.

    A policy that ends in the default without references ends in that with them; in another one matching comes before what
    approximates. details: how they were prepared. erased: digests of erased samples that the file has no rows of.
    Raises UnknownModel, ModelBusy while a job may still erase samples that the file has rows of, and ErasedMeanwhile if one has.
    """
    found = lock_idle_model(session, tenant_id=tenant_id, name=model)
    if not list_erased(session, tenant_id=tenant_id, model=model) <= frozenset(erased):
        raise ErasedMeanwhile(f"samples of {model!r} were erased while its references were prepared")
    values = {"sha256": file.sha256, "path": file.path, "details": dict(details)}
    made = insert(ReferenceSet).values(model_id=found.id, **values)
    session.execute(
        made.on_conflict_do_update(index_elements=["model_id"], set_={**values, "created_at": func.clock_timestamp()})
    )
    if not any(method.get("kind") == MATCHING["kind"] for method in found.policy):
        set_policy(session, found, policy_with_references(found.policy, defaults), by="operator")
    session.flush()


def policy_with_references(
    policy: Sequence[Mapping[str, Any]], defaults: DefaultPolicies | None
) -> list[dict[str, Any]]:
    """Return the policy of a model that gets its first reference predictions."""
    exact = next((i for i, method in enumerate(policy) if method.get("kind") not in CHEAP_EXACT), len(policy))
    first, rest = policy[:exact], policy[exact:]
    if defaults is not None and list(rest) == list(defaults.without):
        return [dict(method) for method in (*first, *defaults.with_references)]
    return [dict(method) for method in (*first, MATCHING, *rest)]


def list_erased(session: Session, *, tenant_id: UUID, model: str) -> frozenset[bytes]:
    """List the digests of the samples that a model has unlearned: no reference model may be trained on them."""
    chosen = (
        select(erased_samples.c.digest)
        .join(Model, Model.id == erased_samples.c.model_id)
        .where(Model.tenant_id == tenant_id, Model.name == model)
    )
    return frozenset(session.scalars(chosen))


def find_references(session: Session, model_id: UUID) -> ReferenceFile | None:
    """Find a model's reference predictions."""
    row = session.execute(
        select(ReferenceSet.sha256, ReferenceSet.path).where(ReferenceSet.model_id == model_id)
    ).one_or_none()
    return None if row is None else ReferenceFile(sha256=row.sha256, path=row.path)


def find_power(session: Session, model_id: UUID) -> tuple[dict[int, float], int | None]:
    """Give the power of the audit's reference test by the number of samples, and how many samples it needs.

    The first is empty without reference predictions; the second is None where no number is enough.
    """
    details = session.scalar(select(ReferenceSet.details).where(ReferenceSet.model_id == model_id)) or {}
    power = {int(size): float(value) for size, value in details.get("power_by_size", {}).items()}
    return power, details.get("samples_needed")


def replace_references(session: Session, model_id: UUID, *, old: ReferenceFile, new: ReferenceFile | None) -> None:
    """Replace a file by the one without the rows of erased samples; without one the model has no references any more.

    Does nothing if other references came in between.
    """
    found = session.get(ReferenceSet, model_id, with_for_update=True, populate_existing=True)
    if found is None or found.sha256 != old.sha256:
        return
    if new is None:
        session.delete(found)
    else:
        found.sha256, found.path = new.sha256, new.path
    session.flush()
