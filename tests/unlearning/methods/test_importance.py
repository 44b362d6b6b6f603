"""The diagonal of the Fisher information, against single samples' gradients and against its closed form."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.unlearning.small import CLASSES, WIDTH, normalised, plain, task
from unlearning.data.batches import Batch
from unlearning.methods.importance import add_squared_gradients, with_drawn_labels, zero_importance
from unlearning.task import Task


def importance(given: Task, batch: Batch) -> dict[str, torch.Tensor]:
    found = zero_importance(given)
    add_squared_gradients(found, given, batch, of=len(batch.targets))
    return found


@pytest.mark.parametrize("build", [plain, normalised])
def test_it_is_the_mean_of_single_samples_squared_gradients(build) -> None:
    given = task(build)
    given.model.eval()
    found = importance(given, given.remain.batch)
    wanted = {name: torch.zeros_like(p) for name, p in given.model.named_parameters()}
    for x, y in zip(*given.remain.batch, strict=True):
        loss = functional.cross_entropy(given.model(x[None]), y[None])
        gradients = torch.autograd.grad(loss, list(given.model.parameters()))
        for name, gradient in zip(wanted, gradients, strict=True):
            wanted[name] += gradient**2 / len(given.remain)

    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_of_a_logistic_regression_it_has_a_closed_form() -> None:
    given = task(plain)
    given.model = nn.Linear(WIDTH, CLASSES)
    x, y = given.remain.batch
    found = importance(given, given.remain.batch)
    with torch.no_grad():
        wrong = given.model(x).softmax(-1) - functional.one_hot(y, CLASSES)

    torch.testing.assert_close(found["weight"], (wrong**2).T @ x**2 / len(x))
    torch.testing.assert_close(found["bias"], (wrong**2).mean(0))


def test_frozen_weights_have_none() -> None:
    given = task(plain)
    given.model[0].requires_grad_(False)

    assert set(importance(given, given.forget.batch)) == {"2.weight", "2.bias"}


def test_labels_are_drawn_from_the_models_prediction() -> None:
    given = task(plain)
    one = Batch(given.remain.inputs[:1].expand(4000, -1), torch.zeros(4000, dtype=torch.int64))
    drawn = with_drawn_labels(given, one, torch.Generator().manual_seed(0)).targets
    share = torch.bincount(drawn, minlength=CLASSES) / 4000
    with torch.no_grad():
        p = given.model(given.remain.inputs[:1]).softmax(-1)[0]

    # Four standard errors of a share, and one draw more.
    assert ((share - p).abs() <= 4 * (p * (1 - p) / 4000).sqrt() + 1 / 4000).all()
