"""The check that all tests of the ledger are under: what is read and then changed was locked (`locked_before_changed`)."""

import pytest
from sqlalchemy import select

from ledger.tables import Model, ModelVersion
from tests.ledger.conftest import locked_before_changed, make_world


def change_a_model(session):
    session.scalars(select(Model)).first().details = {}


def change_a_version(session):
    session.scalars(select(ModelVersion)).first().held_files = {}


@pytest.mark.parametrize("change", [change_a_model, change_a_version])
def test_a_row_that_is_changed_without_a_lock_is_found_and_under_one_it_is_right(filled, change):
    world = filled(make_world)
    with pytest.raises(AssertionError), locked_before_changed(world), world.sessions.begin() as session:
        change(session)
    with locked_before_changed(world), world.sessions.begin() as session:
        session.scalars(select(Model).with_for_update()).all()
        change(session)
        session.flush()


def test_a_lock_of_an_earlier_transaction_does_not_count(filled):
    world = filled(make_world)

    def in_two_transactions():
        with locked_before_changed(world):
            with world.sessions.begin() as session:
                session.scalars(select(Model).with_for_update()).all()
            with world.sessions.begin() as session:
                change_a_model(session)

    with pytest.raises(AssertionError):
        in_two_transactions()
