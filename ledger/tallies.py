"""Counts that outlive what they count: written in the same transaction, so that each is counted once."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.tables import Tally


def count(session: Session, name: str, label: str) -> None:
    """Add one to a tally."""
    first = insert(Tally).values(name=name, label=label, value=1)
    session.execute(first.on_conflict_do_update(index_elements=["name", "label"], set_={"value": Tally.value + 1}))


def tallies(session: Session, name: str) -> dict[str, int]:
    """The values of a tally by label, of those that were ever counted."""
    return dict(session.execute(select(Tally.label, Tally.value).where(Tally.name == name)).all())
