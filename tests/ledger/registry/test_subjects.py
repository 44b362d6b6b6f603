import pytest
from sqlalchemy import text

from ledger.errors import SamplesNotInDataset, UnknownDataset
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import get_dataset
from ledger.registry.subjects import CHUNK, assign_subjects
from ledger.sample_ids import subject_digest
from tests.ledger.conftest import KEY, digests, nothing_written, statements


def pairs(*given):
    """Rows of (who, the sample's number), numbered as the lines after a heading."""
    return [(subject_digest(KEY, who), *digests(number), line) for line, (who, number) in enumerate(given, start=2)]


def assign(world, *given, **more):
    with world.sessions.begin() as session:
        return assign_subjects(session, tenant_id=world.tenant_id, dataset="digits", rows=pairs(*given), **more)


def subjects(world):
    with world.sessions() as session:
        return get_dataset(session, tenant_id=world.tenant_id, name="digits").subjects


def test_pairs_are_counted_once_and_lines_of_unknown_samples_are_listed(world):
    found = assign(world, ("ann", 1), ("ann", 2), ("bob", 3), ("bob", 3), ("ann", 500), ("cat", 501))
    assert (found.lines, found.added, found.subjects) == (6, 3, 2)
    assert (found.unmatched, found.unmatched_lines) == (2, (6, 7))
    assert subjects(world) == 2


def test_later_pairs_are_added_and_what_was_there_stays(world):
    assign(world, ("ann", 1))
    found = assign(world, ("ann", 1), ("ann", 2), ("bob", 2))
    assert (found.added, found.subjects, found.unmatched) == (2, 2, 0)


def test_replacing_drops_what_was_assigned_before_in_this_dataset_alone(world):
    with world.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        from ledger.registry.datasets import register_dataset

        register_dataset(session, tenant_id=other, name="digits", digests=digests(1))
        assign_subjects(session, tenant_id=other, dataset="digits", rows=pairs(("ann", 1)))
    assign(world, ("ann", 1), ("bob", 2))
    assert assign(world, ("cat", 3), replace=True).subjects == 1
    assert world.count("subject_samples") == 2


@pytest.mark.parametrize("given", [(), (("ann", 500), ("bob", 501))])
def test_a_table_without_any_sample_of_the_dataset_replaces_nothing(world, given):
    """An empty one, and one of the wrong column or dataset."""
    assign(world, ("ann", 1))
    with nothing_written(world), pytest.raises(SamplesNotInDataset, match=f"none of the {len(given)} lines"):
        assign(world, *given, replace=True)
    assert assign(world, *given).subjects == 1


def test_a_table_that_breaks_off_changes_nothing(world):
    assign(world, ("ann", 1))

    def broken():
        yield from pairs(("bob", 2)) * (CHUNK + 1)
        raise OSError("the disk is gone")

    with nothing_written(world), world.sessions() as session, pytest.raises(OSError, match="the disk is gone"):
        assign_subjects(session, tenant_id=world.tenant_id, dataset="digits", rows=broken(), replace=True)
    assert assign(world, ("bob", 2)).added == 1


def test_an_unknown_dataset_is_refused_before_anything_is_read(world):
    def untouched():
        pytest.fail("the table was read")
        yield

    with world.sessions() as session, pytest.raises(UnknownDataset):
        assign_subjects(session, tenant_id=world.tenant_id, dataset="letters", rows=untouched())


def test_many_rows_take_as_many_statements_as_few(world):
    def count(*given):
        with statements(world) as executed:
            assign(world, *given)
        return len(executed)

    assert count(*[("ann", number) for number in range(100)] * 300) == count(("bob", 1))


def test_only_hashes_are_stored(world):
    assign(world, ("ann", 1), ("person-77", 2))
    with world.sessions() as session:
        rows = session.scalars(text("SELECT t::text FROM subject_samples t")).all()
    assert len(rows) == 2
    assert not [row for row in rows if b"ann".hex() in row or b"person-".hex() in row]
