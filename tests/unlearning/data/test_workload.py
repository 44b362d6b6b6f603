import dataclasses

import pytest
import torch

from tests.unlearning.small import OBJECTIVE, RECIPE, plain, samples
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload, split_held_out
from unlearning.errors import InvalidWorkload

TRAIN, HELD_OUT, TEST = (samples(n, seed=seed) for n, seed in ((40, 1), (21, 2), (10, 3)))


def workload(**changes: SampleSet) -> Workload:
    sets = {"train": TRAIN, "held_out": HELD_OUT, "test": TEST, **changes}
    return Workload(name="small", build=plain, objective=OBJECTIVE, recipe=RECIPE, **sets)


def test_disjoint_sets_hold_together() -> None:
    assert len(workload().train) == 40


@pytest.mark.parametrize("change", [{"held_out": TRAIN}, {"test": TRAIN}, {"test": HELD_OUT}])
def test_sets_that_share_a_sample_are_refused_without_naming_it(change: dict[str, SampleSet]) -> None:
    with pytest.raises(InvalidWorkload, match="must be disjoint") as refusal:
        workload(**change)

    assert TRAIN.ids[0] not in str(refusal.value)


@pytest.mark.parametrize(("name", "count"), [("train", 0), ("held_out", 0), ("held_out", 2), ("test", 0)])
def test_sets_too_small_to_serve_are_refused(name: str, count: int) -> None:
    few = {"train": TRAIN, "held_out": HELD_OUT, "test": TEST}[name].take(torch.arange(count))
    with pytest.raises(InvalidWorkload, match="empty"):
        workload(**{name: few})


@pytest.mark.parametrize("count", [3, 4, 21])
def test_the_held_out_set_is_split_into_three_disjoint_parts(count: int) -> None:
    held_out = HELD_OUT.take(torch.arange(count))
    split = split_held_out(held_out)
    parts = [getattr(split, field.name) for field in dataclasses.fields(split)]

    assert sum(map(len, parts)) == count
    assert min(map(len, parts)) >= 1
    assert {sample for part in parts for sample in part.ids} == set(held_out.ids)


def test_the_split_is_the_same_every_time() -> None:
    assert split_held_out(HELD_OUT).audit.ids == split_held_out(HELD_OUT).audit.ids
