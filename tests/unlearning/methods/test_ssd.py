"""SSD: the weights that the forget set needs more than the whole does shrink, and a run that dampens none says so."""

import pytest
import torch

from tests.unlearning.small import flat, plain, same, state, task
from unlearning.data.batches import Batch
from unlearning.methods.importance import add_squared_gradients, zero_importance
from unlearning.methods.registry import unlearn
from unlearning.specs import SSD
from unlearning.steps import run_to_completion


@pytest.mark.parametrize(("selection", "dampening"), [(1.0, 1.0), (2.0, 0.3), (1.5, 0.0)])
def test_it_is_the_papers_formula(selection: float, dampening: float) -> None:
    given = task(plain)
    before = state(given.model)
    everything = Batch(*(torch.cat(pair) for pair in zip(given.forget.batch, given.remain.batch, strict=True)))
    forget, overall = zero_importance(given), zero_importance(given)
    add_squared_gradients(forget, given, given.forget.batch, of=len(given.forget))
    add_squared_gradients(overall, given, everything, of=len(everything.targets))
    outcome = run_to_completion(unlearn(SSD(selection=selection, dampening=dampening, batch_size=10), given))

    share = []
    for name, p in state(given.model).items():
        chosen = forget[name] > selection * overall[name]
        shrunk = torch.minimum(dampening * overall[name] / forget[name], torch.tensor(1.0)) * before[name]
        torch.testing.assert_close(p[chosen], shrunk[chosen])
        assert torch.equal(p[~chosen], before[name][~chosen])
        share.append(chosen.flatten())
    assert 0 < outcome.metrics["dampened_share"] < 1
    assert outcome.metrics["dampened_share"] == pytest.approx(float(torch.cat(share).float().mean()))


def test_a_run_that_dampens_nothing_says_so() -> None:
    given = task(plain)
    before = state(given.model)
    outcome = run_to_completion(unlearn(SSD(selection=1e6), given))

    assert outcome.metrics["dampened_share"] == 0
    assert same(state(given.model), before)


def test_a_weight_is_never_enlarged_nor_turned() -> None:
    given = task(plain)
    before = flat(given.model)
    run_to_completion(unlearn(SSD(selection=0.1, dampening=100.0), given))
    after = flat(given.model)

    assert (after.abs() <= before.abs()).all()
    assert (after * before >= 0).all()
