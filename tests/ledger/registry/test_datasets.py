import pytest
from sqlalchemy import select

from ledger.errors import InvalidName, UnknownDataset
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import digest_tables, get_dataset, list_datasets, register_dataset
from ledger.tables import Dataset
from tests.ledger.conftest import digests, statements


def register(world, numbers, name="digits"):
    with world.sessions.begin() as session:
        return register_dataset(session, tenant_id=world.tenant_id, name=name, digests=iter(digests(*numbers)))


def test_registering_again_adds_only_what_is_new(world):
    assert register(world, range(90, 110)).samples == 110
    assert register(world, range(90, 110)).samples == 110


def test_a_sample_given_twice_is_one(world):
    assert register(world, [1, 1, 2], name="twice").samples == 2


@pytest.mark.parametrize("name", ["acme/scans", "sca\tns", "\x00", "..", ""])
def test_a_new_name_that_no_address_could_hold_is_refused_with_a_good_one(world, name):
    with pytest.raises(InvalidName, match="acme-triage"):
        register(world, [1], name=name)


def test_a_dataset_from_before_there_was_a_rule_takes_samples(world):
    with world.sessions.begin() as session:
        session.add(Dataset(tenant_id=world.tenant_id, name="acme/scans"))
    assert register(world, [1, 2], name="acme/scans").samples == 2


def test_a_dataset_may_be_empty(world):
    assert register(world, [], name="empty").samples == 0


def test_another_tenant_sees_nothing(world):
    with world.sessions.begin() as session:
        other = ensure_tenant(session, "bank")
        assert list_datasets(session, tenant_id=other) == []
        with pytest.raises(UnknownDataset, match="digits"):
            get_dataset(session, tenant_id=other, name="digits")
        assert [dataset.name for dataset in list_datasets(session, tenant_id=world.tenant_id)] == ["digits"]


def test_a_digest_of_the_wrong_length_is_refused(world):
    with world.sessions.begin() as session, pytest.raises(ValueError, match="32 bytes"):
        register_dataset(session, tenant_id=world.tenant_id, name="short", digests=[b"short", bytes(59)])


def test_many_samples_take_as_many_statements_as_few(world):
    def count(name, samples):
        with statements(world) as executed:
            assert register(world, range(samples), name=name).samples == samples
        return len(executed)

    assert count("many", 5000) == count("few", 1)


def test_further_columns_stay_beside_their_digests_over_several_statements(world, monkeypatch):
    monkeypatch.setattr("ledger.registry.datasets.CHUNK", 2)
    mine, others = digests(*range(5)), digests(*range(5, 10))
    tables = list(digest_tables(iter(mine), commitment=iter(others)))
    with world.sessions.begin() as session:
        found = [tuple(row) for table in tables for row in session.execute(select(table))]
    assert (len(tables), found) == (3, list(zip(mine, others, strict=True)))


def test_a_column_that_lacks_a_value_is_refused():
    with pytest.raises(ValueError, match="each digest"):
        list(digest_tables(digests(*range(3)), commitment=digests(*range(2))))
