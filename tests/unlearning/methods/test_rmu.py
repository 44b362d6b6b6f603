"""RMU: AdamW on its published loss, over the weights of three blocks."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.kinds import OBJECTIVES, make_task
from tests.unlearning.small import state
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import RMU
from unlearning.steps import run_to_completion
from unlearning.task import Task


class Blocks(nn.Module):
    """A language model with six blocks and without attention: each place sees its own token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6))
        self.head = nn.Linear(8, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens, blocks=6))

    def hidden(self, tokens: Tensor, *, blocks: int) -> Tensor:
        states: Tensor = self.embedding(tokens)
        for block in self.blocks[:blocks]:
            states = block(states)
        return states


@pytest.fixture
def given() -> Task:
    torch.manual_seed(0)
    found = make_task(OBJECTIVES["causal language model"])
    found.model = Blocks()
    return found


def test_it_is_adamw_on_the_published_loss_of_three_blocks(given: Task) -> None:
    """E‖h(x_f) − c·u‖² + α E‖h(x_r) − h_o(x_r)‖², in units of the mean norm on the first forget batch."""
    by_hand, original = copy.deepcopy(given.model), copy.deepcopy(given.model)
    assert isinstance(by_hand, Blocks)
    assert isinstance(original, Blocks)
    run_to_completion(
        unlearn(RMU(epochs=2, batch_size=4, learning_rate=0.003, depth=4 / 6, steering=1.5, remain_weight=7), given)
    )

    generator = torch.Generator().manual_seed(given.seed)
    first = original.hidden(given.forget.inputs[:4], blocks=4).detach()
    scale = first.norm(dim=2).mean()
    direction = torch.rand(8, generator=generator)
    aim = 1.5 * scale * direction / direction.norm()
    optimiser = torch.optim.AdamW([p for block in by_hand.blocks[1:4] for p in block.parameters()], lr=0.003)
    for _ in range(2):
        for forget in given.forget.epoch(4, generator):
            remain = given.remain.draw(forget.size, generator)
            far = by_hand.hidden(forget.inputs, blocks=4) - aim
            moved = by_hand.hidden(remain.inputs, blocks=4) - original.hidden(remain.inputs, blocks=4).detach()
            loss = (far / scale).square().sum(2).mean() + 7 * (moved / scale).square().sum(2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    torch.testing.assert_close(state(given.model), state(by_hand), rtol=1e-4, atol=1e-5)


def test_the_forget_set_is_steered_and_nothing_else_changes(given: Task) -> None:
    before = copy.deepcopy(given.model)
    run_to_completion(unlearn(RMU(epochs=60, learning_rate=0.005, depth=0.5, remain_weight=0.0), given))
    assert isinstance(given.model, Blocks)
    assert isinstance(before, Blocks)

    def likeness(model: Blocks) -> float:
        states = model.hidden(given.forget.inputs, blocks=3).flatten(0, 1)
        return float(nn.functional.cosine_similarity(states[:, None], states[None], dim=2).mean().detach())

    assert likeness(given.model) > 0.95 > likeness(before)  # all point into one direction
    same = {name for name, p in state(given.model).items() if torch.equal(p, state(before)[name])}
    assert same == {name for name in state(before) if not name.startswith(("blocks.0", "blocks.1", "blocks.2"))}


def test_a_model_without_hidden_states_is_refused(given: Task) -> None:
    class Alone(nn.Module):
        """One table: no layer with weights lies before the output."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(10, 10))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.table[tokens]

    given.model = Alone()
    with pytest.raises(MethodRefused, match="no layer of this model"):
        run_to_completion(unlearn(RMU(), given))
