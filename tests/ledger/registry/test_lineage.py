"""Which version an audit may hold a job's result against: one that was trained on just what remains."""

import pytest
from sqlalchemy import text

from tests.ledger.conftest import WEIGHTS, digests
from tests.ledger.registry.test_versions import register, serve


def reference_of(world, *numbers):
    """The reference's version that a new job about these samples is given; None without one."""
    claim = world.submit_and_claim(*numbers)
    return claim.retrained and claim.retrained.version


def change(world, what, *, number):
    with world.sessions.begin() as session:
        session.execute(text(f"UPDATE model_versions SET {what} WHERE number = {number}"))


def test_a_version_trained_without_the_forgotten_samples_is_the_reference(world):
    register(world, *range(3, 80), 0)
    claim = world.submit_and_claim(1, 2)
    assert (claim.base_version, claim.next_version) == (1, 3)
    found = claim.retrained
    assert (found.version, found.weights_sha256, found.weights_path) == (2, "12" * 32, "anew.safetensors")


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(range(80), id="all-of-it"),
        pytest.param([0, *range(2, 80)], id="half-of-what-is-forgotten"),
        pytest.param(range(3, 80), id="less-than-what-remains"),
        pytest.param([0, *range(3, 81)], id="more-than-what-remains"),
    ],
)
def test_a_version_that_has_seen_anything_else_is_none(world, seen):
    register(world, *seen)
    assert reference_of(world, 1, 2) is None


def test_of_several_the_newest_whose_weights_are_there_is_taken(world):
    for _ in range(2):
        register(world, *range(1, 80))
    assert reference_of(world, 0) == 3


@pytest.mark.parametrize("what", ["purged_at = clock_timestamp()", f"weights_sha256 = '{WEIGHTS}'"])
def test_a_purged_version_is_none_nor_are_the_bases_own_weights(world, what):
    register(world, *range(1, 80))
    change(world, what, number=2)
    assert reference_of(world, 0) is None


def test_what_was_erased_before_is_not_expected_to_be_known(world):
    world.finish(world.submit_and_claim(1))
    register(world, 0, *range(3, 80))
    assert reference_of(world, 1, 2) == 3


def test_a_version_trained_anew_that_is_served_is_where_the_next_reference_begins(world):
    register(world, *range(40))
    serve(world, 2)
    register(world, *range(1, 40))
    change(world, f"weights_sha256 = '{'34' * 32}'", number=3)
    claim = world.submit_and_claim(0, 50)
    assert (claim.base_version, claim.samples.forget, claim.retrained.version) == (2, frozenset(digests(0)), 3)
