"""Models that need no method, and of which it is known whether they have forgotten: what verdicts are counted on."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.machine import DEVICE
from unlearning.data.batches import Batch, joined_batch
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers
from unlearning.training.loop import fresh

_BATCH = 64
"""Samples a step."""
_ROUNDS_LIMIT, _LEARNED = 60, 0.95
"""Tens of steps of a fine-tuning, and the share of the samples that must have their wrong labels before."""


def no_op(one: Case) -> nn.Module:
    """Return the original with weights that hardly differ."""
    moved = copy.deepcopy(one.original.model)
    for parameter in moved.parameters():
        parameter.data.mul_(1 + 1e-7)
    return moved


def collapsed(one: Case) -> nn.Module:
    """Return a network that was never trained."""
    return fresh(one.workload.build, seed=one.seed).to(DEVICE).eval()


def still_knows(one: Case) -> nn.Module:
    """Fine-tune the original on all training data, the forgotten samples included: it has changed and forgot nothing."""
    rng, model = np.random.default_rng([one.seed, 4]), copy.deepcopy(one.original.model).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(30):
        _step(one, model, optimiser, _batch(one.workload.train, rng))
    return model.eval()


def over_forgotten(one: Case, forget: SampleSet) -> nn.Module:
    """Fine-tune the retrained model on wrong labels of the forgotten samples, beside remaining ones, until it knows these labels.

    No model that is trained on the remaining data alone knows so little of the samples.
    """
    rng, classes = np.random.default_rng([one.seed, len(forget), 5]), int(one.workload.train.targets.max()) + 1
    model = copy.deepcopy(one.again.model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(_ROUNDS_LIMIT):
        model.train()
        for _ in range(10):
            known = _batch(forget, rng, size=_BATCH // 2)
            wrong = Batch(known.inputs, (known.targets + 1) % classes)
            _step(one, model, optimiser, joined_batch(wrong, _batch(one.remain, rng)))
        answers = batched_answers(one.workload.objective, model.eval(), forget).outputs
        assert answers is not None
        if float((answers.argmax(-1) == (forget.targets + 1) % classes).float().mean()) >= _LEARNED:
            break
    return model


def ascended(one: Case, forget: SampleSet) -> nn.Module:
    """Ascend the original's loss on the forgotten samples until its mean is that of held-out data: the mean alone is right then."""
    objective, rng = one.workload.objective, np.random.default_rng([one.seed, len(forget), 8])
    model = copy.deepcopy(one.original.model).eval()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.005, maximize=True)
    wanted = float(batched_answers(objective, model, one.held_out.criterion).losses.mean())
    for _ in range(_ROUNDS_LIMIT * 10):
        _step(one, model, optimiser, _batch(forget, rng))
        if float(batched_answers(objective, model, forget).losses.mean()) >= wanted:
            break
    return model


class HalfWay(nn.Sequential):
    """A network, whose weights it has, with the means of its own logits and another's."""

    def __init__(self, network: nn.Sequential, other: nn.Module) -> None:
        super().__init__(*copy.deepcopy(network))
        self._others = [copy.deepcopy(other)]  # in a list, so that its weights are not the model's

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the mean logits, (n, classes)."""
        mean: Tensor = (super().forward(inputs) + self._others[0](inputs)) / 2  # type: ignore[no-untyped-call]  # torch's own
        return mean


def half_way(one: Case) -> nn.Module:
    """Return a model with the means of the original's and the retrained model's logits."""
    network = one.again.model
    assert isinstance(network, nn.Sequential)
    return HalfWay(network, one.original.model).eval()


def _batch(samples: SampleSet, rng: np.random.Generator, *, size: int = _BATCH) -> Batch:
    return samples.select(torch.from_numpy(rng.permutation(len(samples))[:size]))


def _step(one: Case, model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    optimiser.zero_grad()
    one.workload.objective.losses(model, batch).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
