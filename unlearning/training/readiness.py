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
from typing import Literal

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet, partition
from unlearning.errors import InvalidWorkload
from unlearning.gradients import clip_loss_gradient, descend, forward_with, trainable
from unlearning.networks import twice_differentiable_kernels
from unlearning.specs.training import Ready2Unlearn

_MIN_LOSS = 1e-6
"""Nats. Smaller losses are raised to this before their logarithm is taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RevocableSplit:
    """Training data split before training: `revocable` samples may later be asked to be forgotten, `stable` ones not.

    people: positions in `revocable` of each person's samples, (k,) int64 each, where requests are simulated by person.
    """

    revocable: SampleSet
    stable: SampleSet
    people: tuple[Tensor, ...] = ()


def revocable_split(
    samples: SampleSet, *, share: float, seed: int, unit: Literal["sample", "subject"] = "sample"
) -> RevocableSplit:
    """Split the samples, or the people whom they belong to, at random; `share` of these are revocable.

    Raises InvalidWorkload for a split by people of whom fewer than three are known.
    """
    if unit == "sample":
        count = min(max(1, round(share * len(samples))), len(samples) - 1)
        revocable, stable = partition(samples, (count, len(samples) - count), seed=seed)
        return RevocableSplit(revocable=revocable, stable=stable)
    people = sorted(set(samples.subjects or ()))
    if len(people) < 3:
        raise InvalidWorkload(
            "Ready2Unlearn by subject needs at least three people in the training set; give the samples their `subjects`, or "
            'prepare for single samples (unit="sample").'
        )
    order = torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))
    chosen = {people[i] for i in order[: min(max(2, round(share * len(people))), len(people) - 1)].tolist()}
    marks = torch.tensor([subject in chosen for subject in samples.subjects or ()])
    revocable, stable = (samples.take(mask.nonzero().flatten()) for mask in (marks, ~marks))
    positions: dict[str, list[int]] = {}
    for position, subject in enumerate(revocable.subjects or ()):
        positions.setdefault(subject, []).append(position)
    return RevocableSplit(
        revocable=revocable, stable=stable, people=tuple(torch.tensor(own) for own in positions.values())
    )


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
    objective = objective.for_step()
    forget, similar = _simulated_request(split, batch_size, generator)
    stable = split.stable.draw(batch_size, generator)
    with twice_differentiable_kernels(model) if spec.order == "second" else contextlib.nullcontext():
        return _meta_terms(model, spec, objective=objective, forget=forget, similar=similar, stable=stable)


def _simulated_request(split: RevocableSplit, size: int, generator: torch.Generator) -> tuple[Batch, Batch]:
    """Draw a batch to forget and a similar one that stays: of single samples, or of all samples of as few people as have `size`."""
    if not split.people:
        revoked = split.revocable.draw(2 * size, generator)
        half = max(1, revoked.size // 2)
        return revoked.take(slice(half)), revoked.take(slice(-half, None))
    order = torch.randperm(len(split.people), generator=generator).tolist()
    sizes = torch.tensor([len(split.people[person]) for person in order]).cumsum(0)
    asking = min(int((sizes < size).sum()) + 1, len(order) - 1)
    staying = asking + int((sizes[asking:] - sizes[asking - 1] < size).sum()) + 1
    groups = order[:asking], order[asking:staying]
    forget, similar = (torch.cat([split.people[person] for person in group]) for group in groups)
    return split.revocable.select(forget, training=True), split.revocable.select(similar, training=True)


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
