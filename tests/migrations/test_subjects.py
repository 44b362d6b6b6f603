"""Migration 0025: a dataset of the version before stays as it is, and may learn its subjects afterwards."""

from alembic import command

from ledger.registry.datasets import get_dataset
from ledger.registry.subjects import assign_subjects
from ledger.sample_ids import subject_digest
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import KEY, World, digests

BEFORE = "0024"


def test_a_dataset_of_the_version_before_learns_its_subjects(world: World, newest_database_url: str) -> None:
    command.downgrade(configuration(newest_database_url), BEFORE)
    upgrade(newest_database_url)
    with world.sessions.begin() as session:
        assert get_dataset(session, tenant_id=world.tenant_id, name="digits").subjects == 0
        rows = [(subject_digest(KEY, "ann"), digest, line) for line, digest in enumerate(digests(1, 2))]
        found = assign_subjects(session, tenant_id=world.tenant_id, dataset="digits", rows=rows)
    assert (found.added, found.subjects) == (2, 1)
