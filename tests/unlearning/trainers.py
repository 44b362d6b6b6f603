"""A training function as an owner writes it, for the tests of trainers."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unlearning.data.samples import SampleSet
from unlearning.training.run import TrainingRun


def train_by_adamw(
    model: nn.Module,
    data: SampleSet,
    run: TrainingRun,
    *,
    epochs: int,
    batch_size: int,
    rate: float,
    before_step: Callable[[int, TrainingRun], None] = lambda step, run: None,
) -> None:
    """Train a classifier; noise draws from every global random state, and each epoch's end is kept.

    before_step: called before each step with its number, from 1. run.should_stop is looked at after it.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    order, first = torch.Generator().manual_seed(run.seed), 0
    epochs = max(1, round(run.share * epochs))
    if (saved := run.resume()) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        order.set_state(saved["order"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        for number, batch in enumerate(data.epoch(batch_size, order), start=1):
            step, steps = epoch * data.batch_count(batch_size) + number, epochs * data.batch_count(batch_size)
            before_step(step, run)
            if run.should_stop:
                return
            noise = random.random() * torch.rand(()) * np.random.rand() / 10
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(batch.inputs + noise), batch.targets)
            loss.backward()
            optimiser.step()
            run.report(step, steps, loss=loss)
        run.checkpoint(
            model=model.state_dict(), optimiser=optimiser.state_dict(), order=order.get_state(), epoch=epoch + 1
        )
