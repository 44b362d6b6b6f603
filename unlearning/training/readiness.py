"""Ready2Unlearn: a training loss that prepares a model for unlearning by gradient ascent later.

    θ'  = θ + α ∇L(B_f; θ)            simulated unlearning: k ascent steps on a revocable batch
    θ'' = θ' − γ ∇L(B_sim; θ')        simulated relearning on similar data that is not forgotten
    + λ1 · −clip(log(L(B_f; θ') / L(B_f; θ)))     efficiency: a step of ascent should work
    + λ2 ·  (L(B_s; θ') − stop[L(B_s; θ)])        retention: and not hurt the stable data
    + λ3 · −clip(L(B_f; θ'') − stop[L(B_f; θ)])   resistance: and last through relearning

The idea and the three aims are those of Duan, Yang, Abbasi, Tam, arXiv 2505.10845 [paper]. The objective is a reconstruction
[ours]: no source we have shows the paper's equations. Efficiency must be a difference, of the losses or of their logarithms:
without the subtraction it would be plain ascent on the revocable data, and the model would not learn them.
"""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet, partition
from unlearning.gradients import clip_loss_gradient, descend, forward_with, trainable
from unlearning.networks import twice_differentiable_kernels
from unlearning.specs.training import Ready2Unlearn

_MIN_LOSS = 1e-6
"""Nats. Smaller losses are raised to this before their logarithm is taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RevocableSplit:
    """Training data split before training: `revocable` samples may later be asked to be forgotten, `stable` ones not."""

    revocable: SampleSet
    stable: SampleSet


def revocable_split(samples: SampleSet, *, share: float, seed: int) -> RevocableSplit:
    """Split the samples at random; `share` of them are revocable."""
    count = min(max(1, round(share * len(samples))), len(samples) - 1)
    revocable, stable = partition(samples, (count, len(samples) - count), seed=seed)
    return RevocableSplit(revocable=revocable, stable=stable)


def readiness_loss(
    model: nn.Module,
    spec: Ready2Unlearn,
    *,
    objective: Objective,
    split: RevocableSplit,
    batch_size: int,
    generator: torch.Generator,
) -> Tensor:
    """Compute the three meta terms on newly drawn batches: a scalar, nats, to add to the training loss.

    Raises MethodRefused with the order "second" for a model that cannot be differentiated twice. In your own training loop:

        loss = objective.losses(model, batch).mean()
        if step % spec.every == 0:
            loss = loss + readiness_loss(model, spec, objective=objective, split=split, batch_size=64, generator=generator)
        loss.backward()
    """
    revoked = split.revocable.draw(2 * batch_size, generator)
    half = max(1, revoked.size // 2)
    forget, similar = revoked.take(slice(half)), revoked.take(slice(-half, None))
    stable = split.stable.draw(batch_size, generator)
    with twice_differentiable_kernels(model) if spec.order == "second" else contextlib.nullcontext():
        return _meta_terms(model, spec, objective=objective, forget=forget, similar=similar, stable=stable)


def _meta_terms(
    model: nn.Module, spec: Ready2Unlearn, *, objective: Objective, forget: Batch, similar: Batch, stable: Batch
) -> Tensor:
    def loss(parameters: dict[str, Tensor], batch: Batch) -> Tensor:
        return objective.losses(forward_with(model, parameters), batch).mean()

    second = spec.order == "second"
    start = trainable(model)
    before = loss(start, forget)
    ascended = start
    for _ in range(spec.ascent_steps):
        ascended = descend(ascended, loss(ascended, forget), rate=-spec.ascent_rate, differentiable=second)
    after = loss(ascended, forget)
    total = -spec.efficiency * _gain(spec, before, after).clamp(max=spec.clip)
    if spec.retention:
        total = total + spec.retention * (loss(ascended, stable) - loss(start, stable).detach())
    if spec.resistance:
        relearned = descend(ascended, loss(ascended, similar), rate=spec.relearn_rate, differentiable=second)
        total = total - spec.resistance * (loss(relearned, forget) - before.detach()).clamp(max=spec.clip)
    return total if spec.longest is None else clip_loss_gradient(total, start, spec.longest)


def _gain(spec: Ready2Unlearn, before: Tensor, after: Tensor) -> Tensor:
    """Compute what the simulated ascent gained, a scalar: L(θ') − L(θ) in nats, or log(L(θ') / L(θ)), which has no unit [ours]."""
    if spec.gain == "ratio" and spec.order == "second":
        return after.clamp(min=_MIN_LOSS).log() - before.clamp(min=_MIN_LOSS).log()
    # First order doubles it: ∇[L(θ + α∇L) − L(θ)] = (I + αH)g' − g with g' ≈ g + αHg, so without the Hessian half is missing.
    difference = (after - before) if spec.order == "second" else 2 * (after - before)
    if spec.gain == "difference":
        return difference
    now = before.detach().clamp(min=_MIN_LOSS)
    # ∇log(L(θ') / L(θ)) ≈ 2αHg/L − α‖g‖²g/L², and L(θ') − L(θ) ≈ α‖g‖².
    return difference / now - (after - before).detach() / now**2 * before
