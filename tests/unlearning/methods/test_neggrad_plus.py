"""NegGrad+ descends on remaining data and ascends on forget data in one step."""

import torch
from torch.nn import functional

from tests.unlearning.small import flat, plain, task
from unlearning.methods.registry import unlearn
from unlearning.specs import FineTune, NegGradPlus
from unlearning.steps import run_to_completion
from unlearning.task import Task


def forget_loss(given: Task) -> float:
    return float(functional.cross_entropy(given.model(given.forget.inputs), given.forget.targets).detach())


def test_it_is_stochastic_gradient_descent_on_the_weighted_difference_of_the_losses() -> None:
    given, by_hand = task(plain), task(plain)
    run_to_completion(unlearn(NegGradPlus(epochs=2, batch_size=16, learning_rate=0.03, remain_weight=0.9), given))
    optimiser = torch.optim.SGD(by_hand.model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(by_hand.seed)
    for _ in range(2):
        for index in torch.randperm(len(by_hand.remain), generator=generator).split(16):
            chosen = torch.randperm(len(by_hand.forget), generator=generator)[:16]
            kept, forgotten = (
                functional.cross_entropy(by_hand.model(samples.inputs[places]), samples.targets[places])
                for samples, places in ((by_hand.remain, index), (by_hand.forget, chosen))
            )
            optimiser.zero_grad()
            (0.9 * kept - 0.1 * forgotten).backward()
            optimiser.step()

    torch.testing.assert_close(flat(given.model), flat(by_hand.model))


def test_it_raises_the_forget_sets_loss_and_without_ascent_fine_tunes() -> None:
    """With β = 1 the forget batches have no say, and the steps differ from fine-tuning's by their random numbers alone."""
    ascending, not_ascending, tuned, untouched = task(plain), task(plain), task(plain), task(plain)
    run_to_completion(unlearn(NegGradPlus(epochs=3, batch_size=16, learning_rate=0.05, remain_weight=0.5), ascending))
    run_to_completion(unlearn(NegGradPlus(epochs=1, batch_size=16, remain_weight=1.0), not_ascending))
    run_to_completion(unlearn(FineTune(epochs=1, batch_size=16), tuned))

    assert forget_loss(ascending) > 2 * forget_loss(untouched)
    torch.testing.assert_close(flat(not_ascending.model), flat(tuned.model))
