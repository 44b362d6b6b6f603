"""Datasets and their samples."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from uuid import UUID

from sqlalchemy import Column, ColumnElement, LargeBinary, Select, Subquery, Table, cast, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import resources
from ledger.errors import InvalidName, SamplesNotInDataset, UnknownDataset
from ledger.sample_ids import joined_sha256
from ledger.tables import Dataset
from ledger.tables.samples import samples

DIGEST_BYTES = 32
CHUNK = 50_000
"""Digests in one statement: large enough to be fast, small enough to keep memory flat."""

_NAME = re.compile(r"(?!\.\.?$)[^/\x00-\x1f\x7f\ud800-\udfff]{1,200}")

MAX_UNMATCHED_LINES = 1000
"""Lines of a list without a match that are named by their numbers; all of them are counted."""


def register_dataset(session: Session, *, tenant_id: UUID, name: str, digests: Iterable[bytes]) -> resources.Dataset:
    """Create a dataset, or add samples to the one of that name. Samples that it has already stay.

    Raises InvalidName for a new one. Datasets from before there was a rule keep their names.
    """
    mine = select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.name == name)
    # Compared here: PostgreSQL cannot be asked for some of the names that no address could hold.
    if name not in session.scalars(select(Dataset.name).where(Dataset.tenant_id == tenant_id)).all():
        check_name(name, of="dataset")
    session.execute(insert(Dataset).values(tenant_id=tenant_id, name=name).on_conflict_do_nothing())
    dataset = session.scalars(mine.with_for_update(key_share=True).execution_options(populate_existing=True)).one()
    dataset.sample_count += insert_digests(session, samples, "dataset_id", dataset.id, digests)
    session.flush()
    return _to_dataset(dataset)


def check_name(name: str, *, of: str) -> None:
    """Check the name of a new dataset or model, which stands in addresses such as `/models/{name}/versions`.

    It has 1 to 200 characters, no `/`, no control character, and is not `.` or `..`. Raises InvalidName.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidName(
            f"{name!r} cannot be the name of a {of}, because no address could hold it: a name has 1 to 200 characters, without / "
            "and control characters, and is not . or .., such as acme-triage"
        )


def digest_tables(digests: Iterable[bytes], **further: Iterable[bytes]) -> Iterator[Subquery]:
    """Give digests to statements as tables with the column `digest`, each of a size that one statement takes.

    further: more columns by their names, each with 32 bytes for each digest, in the same order.
    A table travels as one value, which the database splits: 100,000 digests take a third of a second, half as long as an array.
    Raises ValueError for a digest that is not 32 bytes long, and for columns of other lengths.
    """
    columns = {name: iter(values) for name, values in {"digest": digests, **further}.items()}
    while any(chunk := [list(islice(values, CHUNK)) for values in columns.values()]):
        lengths = {len(values) for values in chunk}
        if len(lengths) > 1:
            raise ValueError(f"each column of a table has a value for each digest, not {sorted(lengths)}")
        place = func.generate_series(0, lengths.pop() - 1).column_valued("place")
        yield select(
            *(_split(values, place).label(name) for name, values in zip(columns, chunk, strict=True))
        ).subquery()


def _split(values: Sequence[bytes], place: ColumnElement[int]) -> ColumnElement[bytes]:
    if any(len(value) != DIGEST_BYTES for value in values):
        raise ValueError(f"a digest must be {DIGEST_BYTES} bytes long (see ledger.sample_ids.sample_digest)")
    packed = cast(literal(b"".join(values)), LargeBinary)
    return func.substring(packed, place * DIGEST_BYTES + 1, DIGEST_BYTES)


def insert_digests(session: Session, table: Table, owner: str, owner_id: UUID, digests: Iterable[bytes]) -> int:
    """Add digests to the list of one owner, whose row must exist; return how many were new."""
    session.flush()
    new = 0
    for given in digest_tables(digests):
        chosen = select(literal(owner_id), given.c.digest)
        added = insert(table).from_select([owner, "digest"], chosen).on_conflict_do_nothing()
        new += session.connection().execute(added, execution_options={"preserve_rowcount": True}).rowcount
    return new


def commit_to_digests(session: Session, digest: Column[bytes], chosen: ColumnElement[bool]) -> str:
    """Commit to the digests of the chosen rows, of samples or subjects: the SHA-256 (hex) of them sorted."""
    ordered = select(digest).where(chosen).order_by(digest)
    with session.scalars(ordered.execution_options(yield_per=CHUNK)) as digests:
        return joined_sha256(digests)


# The planner has no statistics about digests that have just been written. EXCEPT and INTERSECT hash or sort, and are fast all the
# same. For EXISTS it may choose a nested loop, which did not end within minutes for 100,000 samples.


def check_registered(session: Session, training: Select[bytes], *, dataset_id: UUID) -> None:
    """Check that every training sample is one of the dataset's. Raises SamplesNotInDataset."""
    known = select(samples.c.digest).where(samples.c.dataset_id == dataset_id)
    unknown = session.scalars(select(func.count()).select_from(training.except_(known).subquery())).one()
    if unknown:
        raise SamplesNotInDataset(
            f"{unknown} of the training samples are not in the dataset; register them there first"
        )


def count_common(session: Session, some: Select[bytes], others: Select[bytes]) -> int:
    """Count the digests that are in both."""
    return session.scalars(select(func.count()).select_from(some.intersect(others).subquery())).one()


def find_dataset(session: Session, *, tenant_id: UUID, name: str) -> Dataset:
    """Find the row of a tenant's dataset. Raises UnknownDataset."""
    dataset = session.scalar(select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.name == name))
    if dataset is None:
        raise UnknownDataset(f"there is no dataset named {name!r}")
    return dataset


def find_datasets(session: Session, *, tenant_id: UUID, names: Collection[str] | None) -> list[Dataset]:
    """Find the rows of a tenant's datasets of these names, or of all of them for None, by name. Raises UnknownDataset."""
    chosen = select(Dataset).where(Dataset.tenant_id == tenant_id).order_by(Dataset.name)
    found = list(session.scalars(chosen if names is None else chosen.where(Dataset.name.in_(names))))
    if missing := sorted(set(names or ()) - {dataset.name for dataset in found}):
        raise UnknownDataset(f"there is no dataset named {', '.join(map(repr, missing))}")
    return found


def get_dataset(session: Session, *, tenant_id: UUID, name: str) -> resources.Dataset:
    """Read one dataset by its name. Raises UnknownDataset."""
    return _to_dataset(find_dataset(session, tenant_id=tenant_id, name=name))


def list_datasets(session: Session, *, tenant_id: UUID) -> list[resources.Dataset]:
    """List all datasets of a tenant, by name."""
    return [
        _to_dataset(row)
        for row in session.scalars(select(Dataset).where(Dataset.tenant_id == tenant_id).order_by(Dataset.name))
    ]


def _to_dataset(dataset: Dataset) -> resources.Dataset:
    return resources.Dataset(
        id=dataset.id,
        name=dataset.name,
        samples=dataset.sample_count,
        subjects=dataset.subject_count,
        created_at=dataset.created_at,
    )
