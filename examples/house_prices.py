"""House prices: tabular regression, from a plain training script.

The data are made up, so that the example needs no download: 2,400 sales with eight facts each. The price follows from the facts and
from much that is not among them, so a network that is trained for long learns single sales by heart.

`python -m examples.house_prices` trains as the company did before, and saves the weights. Everything under "For Expunge" is new.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

# For Expunge
from unlearning.data.objectives import regression
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.specs.training import Recipe
from unlearning.storage import save_weights

FACTS = 8
"""Living area, rooms, age, distance to the centre and so on, each with mean 0 and standard deviation 1."""
SALES, TRAINED = 2400, 1200


class Prices(nn.Module):
    """Two hidden layers: facts (n, 8) → price in thousands (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FACTS, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, facts: Tensor) -> Tensor:
        """Predict the price around the usual 300 thousand."""
        price: Tensor = 300 + 80 * self.body(facts).squeeze(1)
        return price


@functools.cache
def sales() -> tuple[Tensor, Tensor]:
    """Make up the facts (n, 8) and the prices (n,), in thousands."""
    generator = torch.Generator().manual_seed(0)
    facts = torch.randn(SALES, FACTS, generator=generator)
    worth = 40 * facts[:, 0] + 20 * facts[:, 1] * facts[:, 2] - 25 * facts[:, 3].abs() + 30 * torch.sin(2 * facts[:, 4])
    return facts, 300 + worth + 50 * torch.randn(SALES, generator=generator)


def train() -> nn.Module:
    """Train on the first half of the sales by mean squared error."""
    torch.manual_seed(0)
    facts, prices = (part[:TRAINED] for part in sales())
    model = Prices()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        for batch in torch.split(torch.randperm(TRAINED), 64):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(model(facts[batch]), prices[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
    return model


# For Expunge


def workload() -> Workload:
    """Tell Expunge about the model: how to build it, what it was trained on, and data that it never saw."""
    facts, prices = sales()

    def part(start: int, end: int) -> SampleSet:
        ids = tuple(f"sale-{number:05d}" for number in range(start, end))
        return SampleSet(ids=ids, inputs=facts[start:end], targets=prices[start:end])

    return Workload(
        name="house-prices",
        build=Prices,
        train=part(0, TRAINED),
        held_out=part(TRAINED, 2000),
        test=part(2000, SALES),
        objective=regression(),
        recipe=Recipe(epochs=80, batch_size=64, learning_rate=0.1),
    )


if __name__ == "__main__":
    print(save_weights(train(), Path("weights"))[0])
