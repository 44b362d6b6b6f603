"""Facts about digits: several labels a sample, from a plain training script.

Scikit-learn's 1,797 scanned digits of 8 x 8 points, with sensor noise. Each has any of four facts: it is even, prime, above four,
or drawn with a closed loop. The noise is fixed for each scan, so a network must learn scans by heart to be right about all of them.

`python -m examples.digit_facts` trains as the company did before, and saves the weights. Everything under "For Expunge" is new.
"""

import functools
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

# For Expunge
from unlearning.data.objectives import multi_label
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.specs.training import Recipe
from unlearning.storage import save_weights

FACTS = {"even": (0, 2, 4, 6, 8), "prime": (2, 3, 5, 7), "above four": (5, 6, 7, 8, 9), "loop": (0, 6, 8, 9)}
NOISE = 0.6
"""Standard deviation of the sensor noise. A point's value is 0 to 1."""
SCANS, TRAINED = 1797, 800


def network() -> nn.Module:
    """Build one hidden layer: scans (n, 64) → a logit for each fact (n, 4)."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, len(FACTS)))


@functools.cache
def scans() -> tuple[Tensor, Tensor]:
    """Load the scans (n, 64) and their facts, multi-hot (n, 4)."""
    data = load_digits()
    noise = torch.randn(SCANS, 64, generator=torch.Generator().manual_seed(0))
    facts = [[digit in digits for digits in FACTS.values()] for digit in data.target.tolist()]
    return torch.tensor(data.data, dtype=torch.float32) / 16 + NOISE * noise, torch.tensor(facts)


def train() -> nn.Module:
    """Train on the first 800 scans by binary cross-entropy."""
    torch.manual_seed(0)
    inputs, facts = (part[:TRAINED] for part in scans())
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(60):
        for batch in torch.split(torch.randperm(TRAINED), 64):
            optimiser.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(inputs[batch]), facts[batch].float())
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
    return model


# For Expunge


def workload() -> Workload:
    """Tell Expunge about the model: how to build it, what it was trained on, and data that it never saw."""
    inputs, facts = scans()

    def part(start: int, end: int) -> SampleSet:
        ids = tuple(f"scan-{number:04d}" for number in range(start, end))
        return SampleSet(ids=ids, inputs=inputs[start:end], targets=facts[start:end])

    return Workload(
        name="digit-facts",
        build=network,
        train=part(0, TRAINED),
        held_out=part(TRAINED, 1400),
        test=part(1400, SCANS),
        objective=multi_label(len(FACTS)),
        recipe=Recipe(epochs=60, batch_size=64, learning_rate=0.2),
    )


if __name__ == "__main__":
    print(save_weights(train(), Path("weights"))[0])
