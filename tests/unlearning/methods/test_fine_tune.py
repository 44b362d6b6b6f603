"""Fine-tuning sees the remaining set alone, each sample once an epoch."""

import torch
from torch.nn import functional

from tests.unlearning.methods.watching import Seen, places, watching
from tests.unlearning.small import flat, plain, task
from unlearning.methods.registry import unlearn
from unlearning.specs import FineTune
from unlearning.steps import run_to_completion


def test_the_remaining_set_is_seen_once_an_epoch_and_the_forget_set_never() -> None:
    given = task(plain)
    seen: Seen = []
    given.objective = watching(seen)
    outcome = run_to_completion(unlearn(FineTune(epochs=2, batch_size=16), given))

    counts = torch.bincount(torch.cat([places(batch, given.remain) for batch in seen]), minlength=len(given.remain))
    assert (counts == 2).all()
    assert all((places(batch, given.forget) < 0).all() for batch in seen)
    assert (outcome.steps, outcome.stopped_because) == (len(seen), "completed")


def test_it_is_plain_stochastic_gradient_descent() -> None:
    given, by_hand = task(plain), task(plain)
    run_to_completion(unlearn(FineTune(epochs=2, batch_size=16, learning_rate=0.03), given))
    optimiser = torch.optim.SGD(by_hand.model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(by_hand.seed)
    for _ in range(2):
        for index in torch.randperm(len(by_hand.remain), generator=generator).split(16):
            optimiser.zero_grad()
            functional.cross_entropy(
                by_hand.model(by_hand.remain.inputs[index]), by_hand.remain.targets[index]
            ).backward()
            optimiser.step()

    torch.testing.assert_close(flat(given.model), flat(by_hand.model))
