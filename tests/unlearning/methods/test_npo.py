"""NPO, SimNPO and GradDiff: each is AdamW on its published loss."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.kinds import OBJECTIVES, make_task
from tests.unlearning.small import flat, plain, task
from unlearning.data.batches import Batch
from unlearning.methods.registry import unlearn
from unlearning.specs import NPO, GradDiff, SimNPO
from unlearning.steps import run_to_completion
from unlearning.task import Task

Loss = Callable[[nn.Module, nn.Module, Batch], Tensor]
"""(model, original, forget batch) → the published loss of the forget batch."""


def log_likelihoods(model: nn.Module, batch: Batch) -> Tensor:
    """Sum the log-probabilities of each sequence's tokens, (n,)."""
    log_p = model(batch.inputs)[:, :-1].log_softmax(-1)
    return log_p.gather(2, batch.inputs[:, 1:, None]).sum((1, 2))


def npo(model: nn.Module, original: nn.Module, forget: Batch) -> Tensor:
    """Eq. 3 of Zhang et al.: (2/β) E log(1 + (π_θ/π_o)^β), β = 0.1."""
    with torch.no_grad():
        before = log_likelihoods(original, forget)
    return 2 / 0.1 * torch.log1p((0.1 * (log_likelihoods(model, forget) - before)).exp()).mean()


def sim_npo(model: nn.Module, original: nn.Module, forget: Batch) -> Tensor:
    """Eq. 4 of Fan et al.: −(2/β) E log σ(−(β/|y|) log π_θ − γ), β = 2.5, γ = 0.2."""
    length = forget.inputs.shape[1] - 1
    return -2 / 2.5 * functional.logsigmoid(-2.5 / length * log_likelihoods(model, forget) - 0.2).mean()


def difference(model: nn.Module, original: nn.Module, forget: Batch) -> Tensor:
    """−γ L(B_f), γ = 0.5."""
    return 0.5 * (log_likelihoods(model, forget) / (forget.inputs.shape[1] - 1)).mean()


@pytest.mark.parametrize(
    ("spec", "loss", "weight"),
    [
        (NPO(epochs=2, batch_size=4, learning_rate=0.003, remain_weight=0.7), npo, 0.7),
        (SimNPO(epochs=2, batch_size=4, learning_rate=0.003, margin=0.2), sim_npo, 1.0),
        (GradDiff(epochs=2, batch_size=4, learning_rate=0.003, forget_weight=0.5), difference, 1.0),
    ],
    ids=["NPO", "SimNPO", "GradDiff"],
)
def test_it_is_adamw_on_the_published_loss_and_the_remaining_samples(
    spec: NPO | SimNPO | GradDiff, loss: Loss, weight: float
) -> None:
    given = make_task(OBJECTIVES["causal language model"])
    by_hand, original = copy.deepcopy(given.model), copy.deepcopy(given.model)
    run_to_completion(unlearn(spec, given))
    optimiser = torch.optim.AdamW(by_hand.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(given.seed)
    for _ in range(2):
        for forget in given.forget.epoch(4, generator):
            remain = given.remain.draw(forget.size, generator)
            kept = -(log_likelihoods(by_hand, remain) / (remain.inputs.shape[1] - 1)).mean()
            optimiser.zero_grad()
            (weight * kept + loss(by_hand, original, forget)).backward()
            optimiser.step()

    torch.testing.assert_close(flat(given.model), flat(by_hand), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [NPO(beta=1.0), SimNPO(), GradDiff()], ids=["NPO", "SimNPO", "GradDiff"])
def test_the_forget_set_becomes_less_known(spec: NPO | SimNPO | GradDiff) -> None:
    given = task(plain)

    def forget_loss(given: Task) -> float:
        return float(functional.cross_entropy(given.model(given.forget.inputs), given.forget.targets).detach())

    before = forget_loss(given)
    run_to_completion(unlearn(dataclasses.replace(spec, epochs=30, learning_rate=0.01), given))
    assert forget_loss(given) > before + 1
