"""Migrations 0035 and 0038.

An earlier request means the samples that are assigned now, and the first key is the ledger's. A step back leaves no sealed entry.
"""

from datetime import timedelta

import pytest
from alembic import command

from ledger.errors import WrongSampleKey
from ledger.requests.do_not_train import people_of_model
from ledger.requests.submission import submit
from ledger.sample_key import check_sample_key, rotate_sample_key
from migrations.commands import configuration, upgrade
from tests.ledger.conftest import KEY, World, assign, committed, digests, listed_names, people

BEFORE = "0034"


def test_a_request_of_the_version_before_keeps_its_people(world: World, newest_database_url: str) -> None:
    with world.sessions.begin() as session:
        assign(session, world.tenant_id, "digits", ann=digests(5, 6, 99))
        of_people = world.submission(subjects=committed("ann", "eve"), models=["small", "large"])
        request = submit(session, of_people, window=timedelta(0))
        submit(session, world.submission(7, models=None), window=timedelta(0))
    command.downgrade(configuration(newest_database_url), BEFORE)
    with world.sessions.begin() as session:
        assign(session, world.tenant_id, "digits", ann=digests(8))
    upgrade(newest_database_url)

    assert world.count("request_subject_samples") == 3
    jobs = {target.model: target.job.id for target in request.targets}
    assert [world.claim(jobs[name]).subjects for name in ("small", "large")] == [1, 1]
    assert listed_names(world, people_of_model, "small") == sorted(people("ann", "eve"))
    with world.sessions.begin() as session:
        check_sample_key(session, KEY)
    with world.sessions.begin() as session, pytest.raises(WrongSampleKey):
        check_sample_key(session, KEY + b"1" * 32)


def test_a_step_back_leaves_entries_of_the_log_that_the_version_before_can_prove(
    world: World, newest_database_url: str
) -> None:
    new = KEY + b"1" * 32
    world.submit(1)
    before = world.count("log_openings")
    with world.sessions.begin() as session:
        rotate_sample_key(session, old=KEY, new=new, rewrite=lambda file, _: file)
    assert world.count("log_openings") == before
    command.downgrade(configuration(newest_database_url), "0037")
    upgrade(newest_database_url)
    assert world.count("log_openings") == before - 1
