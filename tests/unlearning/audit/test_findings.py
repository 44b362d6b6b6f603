"""An exact result that is not verified: copies that stay, and wrong labels, as in models that people brought."""

from dataclasses import replace

import pytest
import torch

from tests.unlearning.audit.conftest import SMALL, World, trained
from unlearning.audit.findings import Findings, likely_causes
from unlearning.data.near_copies import Copies, find_copies
from unlearning.data.samples import SampleSet, joined

SEVERAL = torch.arange(60)


def copies_of(samples: SampleSet) -> SampleSet:
    noise = torch.randn(samples.inputs.shape, generator=torch.Generator().manual_seed(5))
    return replace(samples, ids=tuple(f"copy-{name}" for name in samples.ids), inputs=samples.inputs + 0.001 * noise)


def audited(world: World, *, forget: SampleSet, remain: SampleSet) -> Findings:
    """An audit of a model that never saw `forget`. Its verdict is replaced by `failed`: causes are named for that alone."""
    given = World(
        sets={**world.sets, "forget": forget, "remain": remain},
        models={"original": trained(joined(forget, remain), seed=0), "retrained": trained(remain, seed=1)},
    )
    found = given.audit("retrained", spec=SMALL)
    return replace(found, verdict=replace(found.verdict, value="failed"))


def test_copies_among_the_remaining_samples_are_counted_and_named(world: World) -> None:
    forget, remain = world.sets["forget"], world.sets["remain"]
    with_copies = joined(remain, copies_of(forget.take(SEVERAL)))
    places, compared = find_copies(forget, with_copies, held_out=world.sets["held_out"])
    assert places.tolist() == [*range(len(remain), len(remain) + 60), *[-1] * (len(forget) - 60)]
    assert compared == len(forget)
    found = audited(world, forget=forget, remain=with_copies)
    (cause,) = likely_causes(found, forget=forget, remain=with_copies, held_out=world.sets["held_out"])
    assert "60 of 150" in cause
    none = remain.take(torch.arange(0))
    known = Copies(places, compared)  # nothing is searched then
    assert likely_causes(found, forget=forget, remain=none, held_out=none, copies=known) == (cause,)


def test_wrong_labels_are_named(world: World) -> None:
    forget = world.sets["forget"]
    odd = replace(forget, targets=(forget.targets + 1) % 10)
    found = audited(world, forget=odd, remain=world.sets["remain"])
    (cause,) = likely_causes(found, forget=odd, remain=world.sets["remain"], held_out=world.sets["held_out"])
    assert "error" in cause


@pytest.fixture(scope="module")
def retrained(world: World) -> Findings:
    return world.audit("retrained", spec=SMALL)


def test_typical_samples_have_neither_and_that_is_said(world: World, retrained: Findings) -> None:
    sets = {name: world.sets[name] for name in ("forget", "remain", "held_out")}
    assert not find_copies(sets["forget"], sets["remain"], held_out=sets["held_out"]).found.any()
    failed = replace(retrained, verdict=replace(retrained.verdict, value="failed"))
    (cause,) = likely_causes(failed, **sets)
    assert "Neither" in cause


def test_a_verified_result_needs_no_cause(world: World, retrained: Findings) -> None:
    verified = replace(retrained, verdict=replace(retrained.verdict, value="verified"))
    assert likely_causes(verified, **{name: world.sets[name] for name in ("forget", "remain", "held_out")}) == ()
