"""A class forgotten as a whole: nothing of it remains, and a retrained model would never answer it."""

import copy

import pytest
import torch

from tests.unlearning.small import OBJECTIVE, RECIPE, plain, task
from unlearning.data.samples import SampleSet, joined
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, LTU, Spec
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit

CLASS = 2


def without_class() -> Task:
    given = task(plain)
    together = joined(given.forget, given.remain)
    inside = together.targets == CLASS
    given.forget, given.remain = (together.take(mask.nonzero().flatten()) for mask in (inside, ~inside))
    return given


@torch.no_grad()
def right(model: torch.nn.Module, samples: SampleSet) -> float:
    return float((model(samples.inputs).argmax(-1) == samples.targets).float().mean())


@pytest.mark.parametrize("spec", [LTU(batch_size=16, query_size=16), IEU(batch_size=16)], ids=["ltu", "ieu"])
def test_it_is_answered_no_more_and_the_rest_is_kept(spec: Spec) -> None:
    given = without_class()
    original = copy.deepcopy(given.model)
    retrained = fit(plain, given.remain, RECIPE, objective=OBJECTIVE, seed=0)
    assert (right(original, given.forget), right(retrained, given.forget)) == (1, 0)
    run_to_completion(unlearn(spec, given))

    assert right(given.model, given.forget) == 0
    assert right(given.model, given.remain) > 0.95
    others = given.criterion.take((given.criterion.targets != CLASS).nonzero().flatten())
    assert right(given.model, others) > right(retrained, others) - 0.1
