from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger import metrics
from ledger.errors import VersionRefused
from ledger.registry.models import get_model
from ledger.registry.retention import list_superseded, mark_purged, needed_files
from ledger.registry.versions import promote

MONTH = timedelta(days=30)


def listed(world, *, older_than=MONTH):
    with world.sessions() as session:
        return [(version.model, version.number) for version in list_superseded(session, older_than=older_than)]


def age(world, days=40):
    """Let every version be that much older."""
    with world.sessions.begin() as session:
        session.execute(
            text("UPDATE model_versions SET created_at = created_at - make_interval(days => :d)"), {"d": days}
        )


def purge(world, *, older_than=MONTH):
    with world.sessions.begin() as session:
        chosen = [version.version_id for version in list_superseded(session, older_than=older_than)]
        return mark_purged(session, chosen, older_than=older_than)


def knowing(world):
    """How many stored versions of each model know erased people."""
    with world.sessions() as session:
        return {model: count for _, model, _, count in metrics.versions(session)}


def test_a_stored_version_that_knows_erased_people_counts_until_it_is_purged(world):
    assert knowing(world) == {"small": 0, "large": 0}
    world.finish(world.submit_and_claim(1))
    assert knowing(world) == {"small": 1, "large": 0}
    world.finish(world.submit_and_claim(2))
    assert knowing(world) == {"small": 2, "large": 0}
    age(world)
    purge(world)
    assert knowing(world) == {"small": 0, "large": 0}


def test_what_a_later_version_follows_may_go_once_it_is_old_enough(world):
    world.finish(world.submit_and_claim(1))
    assert listed(world) == []

    age(world)
    assert listed(world) == [("small", 1)]
    assert listed(world, older_than=timedelta(days=50)) == []


def test_the_served_version_stays_and_so_does_one_that_an_open_job_began_with(world):
    age(world)
    assert listed(world, older_than=timedelta(0)) == []

    world.finish(world.submit_and_claim(1))
    claim = world.submit_and_claim(2)
    age(world)
    with world.sessions.begin() as session:  # as if the model had been rolled forward while the job runs
        first = "(SELECT id FROM model_versions WHERE number = 1 AND model_id = jobs.model_id)"
        session.execute(text(f"UPDATE jobs SET base_version_id = {first} WHERE id = :job"), {"job": claim.job_id})
    assert listed(world) == []


def test_a_file_that_another_version_needs_is_not_given_up(world):
    world.finish(world.submit_and_claim(1))
    age(world)
    with world.sessions() as session:
        shared = needed_files(session)

    gone = purge(world)

    with world.sessions() as session:
        assert not set(gone) & needed_files(session)
        assert set(gone) | needed_files(session) == shared
    assert listed(world) == []
    assert purge(world) == []


def test_weights_after_slices_are_kept_as_long_as_the_model_lists_them(world):
    for entries in ([{"slice": 0, "path": "zero.safetensors"}, {"slice": 1, "path": "one.safetensors"}], [], None):
        claim = world.submit_and_claim(1 if entries else 2 if entries is not None else 3)
        world.finish(claim, checkpoints=entries)
        with world.sessions() as session:
            kept = {"zero.safetensors", "one.safetensors"} & needed_files(session)
            assert kept == {entry["path"] for entry in entries or ()}
            assert get_model(session, tenant_id=world.tenant_id, name="small").details["training_seconds"] == 12.5


def test_a_purged_version_cannot_be_served_again(world):
    world.finish(world.submit_and_claim(1))
    age(world)
    purge(world)

    with world.sessions.begin() as session, pytest.raises(VersionRefused):
        promote(session, tenant_id=world.tenant_id, model="small", number=1, by="test")
