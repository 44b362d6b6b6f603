"""DP-SGD: train with Poisson batches, gradients clipped sample by sample, and Gaussian noise (Abadi et al., CCS 2016).

Opacus clips, adds the noise and accounts for the privacy spent; it is imported only if a recipe asks for DP-SGD. The noise comes
from torch's ordinary generator, which is not cryptographically secure: good enough for experiments only.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from unlearning.data.batches import Batch, Inputs
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.gradients import Parameters, forward_with, trainable
from unlearning.hardware import in_float32
from unlearning.specs.training import DPSGD, Recipe
from unlearning.state import State
from unlearning.steps import Outcome, Progress, Steps

_MIN_BATCH = 2


@dataclass(slots=True, eq=False)
class PoissonBatches:
    """Yield `total` batches that each sample enters independently with the probability size/n.

    A batch of fewer than two samples is drawn again, which does not happen at usual sizes. Registered, it continues with the next
    batch in a resumed run. taken: batches yielded so far.
    """

    samples: SampleSet
    size: int
    total: int
    generator: torch.Generator
    taken: int = field(default=0)

    @property
    def rate(self) -> float:
        """The probability that a sample enters a batch."""
        return min(1.0, self.size / len(self.samples))

    def __iter__(self) -> Iterator[Batch]:
        while self.taken < self.total:
            chosen = self._draw()
            self.taken += 1
            yield self.samples.select(chosen, training=True)

    def _draw(self) -> Tensor:
        while True:
            chosen = (torch.rand(len(self.samples), generator=self.generator) < self.rate).nonzero().flatten()
            if len(chosen) >= min(_MIN_BATCH, len(self.samples)):
                return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return its position; the generator is registered as a part of its own."""
        return {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self.taken = state_dict["taken"]


def private_steps(
    model: nn.Module,
    samples: SampleSet,
    recipe: Recipe,
    privacy: DPSGD,
    *,
    objective: Objective,
    seed: int,
    state: State,
) -> Steps:
    """Train `model` in place by DP-SGD, in float32, for as many steps as `recipe` takes without it.

    The outcome's metrics have `epsilon` and `delta`. Raises MethodRefused if Opacus is not installed or the model has a layer, such
    as batch norm, that mixes samples.
    """
    dp_optimiser = _load_optimiser(model)
    generator = torch.Generator().manual_seed(seed)
    samples.check_random_access("Poisson batches")
    total = recipe.epochs * samples.batch_count(recipe.batch_size)
    batches = PoissonBatches(samples, recipe.batch_size, total, generator)
    parameters = trainable(model)
    inner = torch.optim.SGD(
        parameters.values(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(inner, recipe.learning_rate, total_steps=total, cycle_momentum=False)
    noise = torch.Generator(device=samples.device).manual_seed(seed + 1)
    optimiser = dp_optimiser(
        inner,
        noise_multiplier=privacy.noise,
        max_grad_norm=privacy.clip,
        expected_batch_size=recipe.batch_size,
        generator=noise,
    )
    state.register(model=model, optimiser=inner, schedule=schedule, batches=batches, generator=generator, noise=noise)
    model.train()
    try:
        for batch in batches:
            loss = _take_step(model, parameters, batch, objective, optimiser)
            schedule.step()
            yield Progress(phase="train", step=batches.taken, total=total, metrics={"loss": loss})
    finally:
        for p in parameters.values():
            p.__dict__.clear()  # Opacus stores single samples' gradients and their sum there
        model.eval()
    spent = epsilon(privacy, rate=batches.rate, steps=total)
    return Outcome(steps=total, stopped_because="completed", metrics={"epsilon": spent, "delta": privacy.delta})


def epsilon(privacy: DPSGD, *, rate: float, steps: int) -> float:
    """Compute the ε that `steps` steps spend at a sampling rate, by Rényi accounting (Mironov, 2017)."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(privacy.noise, rate, steps)]
    with warnings.catch_warnings():
        # If the best order is the first or last one tried, the bound is looser than possible, but still valid.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        return float(accountant.get_epsilon(privacy.delta))


def _load_optimiser(model: nn.Module) -> Any:
    """Import Opacus's optimiser. Raises MethodRefused if Opacus is not installed or does not support a layer of the model."""
    try:
        from opacus.optimizers import DPOptimizer
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise MethodRefused("DP-SGD needs Opacus: install the extra `privacy`.") from error
    model.train()
    faults = ModuleValidator.validate(model, strict=False)
    model.eval()
    if faults:
        raise MethodRefused(
            f"DP-SGD cannot train this model: {str(faults[0]).split('.')[0]}. Use a model without such layers, "
            "with group norm in place of batch norm."
        )
    return DPOptimizer


@in_float32
def _take_step(
    model: nn.Module, parameters: dict[str, Tensor], batch: Batch, objective: Objective, optimiser: Any
) -> float:
    """Take one step and return the mean loss. Opacus reads the gradient of every sample's loss, (n, …), from each parameter."""
    objective = objective.for_step()

    def loss(given: Parameters, x: Inputs, y: Tensor) -> Tensor:
        return objective.losses(forward_with(model, given), Batch(x, y).map(lambda tensor: tensor[None])).sum()

    detached = {name: p.detach() for name, p in parameters.items()}
    per_sample = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
    gradients, losses = per_sample(detached, *batch)
    for name, p in parameters.items():
        p.grad_sample = gradients[name]  # type: ignore[attr-defined]  # Opacus's own attribute
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(losses.mean())
