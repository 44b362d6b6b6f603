"""LTU's two gradients, remembering and forgetting feedback, and how they are harmonised into one update.

Equations are those of Huang, Foo, Liu, ECCV 2024, arXiv 2407.10494 [paper].
"""

import contextlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.gradients import Loss, clip_gradient, descend, flat_gradient, forward_with, trainable
from unlearning.hardware import in_float32
from unlearning.methods.aims import ReferenceAims, RemainingLosses
from unlearning.methods.ltu.guide_attacks import GuideAttack
from unlearning.methods.ltu.queries import Neighbourhood, query_sets
from unlearning.networks import twice_differentiable_kernels
from unlearning.specs import LTU
from unlearning.task import Task


def meta_gradient(
    model: nn.Module,
    *,
    support: Loss,
    queries: Sequence[Loss],
    inner_rate: float,
    order: Literal["second", "first"] = "second",
    support_weight: float = 1.0,
    meta: bool = True,
) -> Tensor:
    """Compute g = ∇_θ [ w·L_s(θ) + Σ_i L_q^i(θ − α∇L_s(θ)) ] as one vector (p,) over all parameters (eqs. 1-5).

    support: L_s. queries: the L_q^i. inner_rate: α. support_weight: w, in the paper 1. order: "first" stops the gradient through
    the inner step. meta: False leaves the inner step out, an ablation: ∇_θ [ w·L_s(θ) + Σ_i L_q^i(θ) ].
    Raises MethodRefused for a second-order gradient of a model that has none.
    """
    parameters = trainable(model)
    second = meta and order == "second"
    with twice_differentiable_kernels(model) if second else contextlib.nullcontext():
        support_loss = support(forward_with(model, parameters))
        tuned = descend(parameters, support_loss, rate=inner_rate, differentiable=second) if meta else parameters
        forward = forward_with(model, tuned)
        total = support_weight * support_loss
        for query in queries:
            total = total + query(forward)
        return flat_gradient(total, parameters)


class ForgetBatch(NamedTuple):
    """A batch of forget samples. places: in the forget set, (n,) int64. weights: their forget weights, (n,) [ours]."""

    samples: Batch
    places: Tensor
    weights: Tensor


def remembering_feedback(
    spec: LTU,
    task: Task,
    near: Neighbourhood,
    remaining: RemainingLosses,
    forget: ForgetBatch,
    generator: torch.Generator,
    aims: ReferenceAims | None,
) -> Tensor:
    """Compute g_r, (p,): tuned on random labels for the forget batch, tested on three query sets with their true labels [paper].

    aims: with reference predictions q the support loss is d(q, p_θ) (`Prediction.divergences`), which has a floor of its own, with
    the weight 1 [ours].
    """
    batch, places, weights = forget
    if aims is None:
        scrambled, scramble_weight = task.objective.scrambled(batch, generator), spec.scramble_weight

        def support(forward: Forward) -> Tensor:
            return (weights * task.objective.for_step().losses(forward, scrambled)).mean()
    else:
        scramble_weight = min(1.0, len(places) / spec.batch_size)

        def support(forward: Forward) -> Tensor:
            return aims.batch_divergences(forward, batch, places).mean()

    queries = query_sets(near, places, batch.targets, size=spec.query_size, generator=generator)
    gradient = meta_gradient(
        task.model,
        support=support,
        queries=[remaining.mean(query) for query in queries],
        inner_rate=spec.inner_rate,
        order=spec.order,
        support_weight=scramble_weight,
        meta=spec.meta,
    )
    return clip_gradient(gradient, spec.clip)


def forgetting_feedback(
    spec: LTU, task: Task, attacks: Sequence[GuideAttack], forget: ForgetBatch, generator: torch.Generator
) -> Tensor:
    """Compute g_f, (p,): one random guide attack is the support, another the query, both with the label "non-member" [paper]."""
    first, second = torch.randperm(len(attacks), generator=generator)[:2].tolist()
    gradient = meta_gradient(
        task.model,
        support=_non_member_loss(task, attacks[first], forget),
        queries=[_non_member_loss(task, attacks[second], forget)],
        inner_rate=spec.inner_rate,
        order=spec.order,
        meta=spec.meta,
    )
    return spec.forgetting_weight * clip_gradient(gradient, spec.clip)


def combine(spec: LTU, forgetting: Tensor | None, remembering: Tensor | None, number: int) -> Tensor:
    """Combine the two gradients, (p,), into the update of step `number`; with only one of them, return that."""
    if forgetting is None or remembering is None:
        only = forgetting if remembering is None else remembering
        assert only is not None
        return only
    match spec.combine:
        case "harmonise":
            return remembering + harmonise(forgetting, remembering)
        case "sum":
            return remembering + forgetting
        case "alternate":
            return forgetting if number % 2 else remembering


@in_float32
def harmonise(forgetting: Tensor, remembering: Tensor) -> Tensor:
    """Remove from the forgetting gradient what works against remembering (eq. 12): both (p,).

    If cos(g_f, g_r) < 0:  g_f ← g_f − (g_f·g_r / ‖g_r‖²) g_r. The update is then g_r + g_f (`combine`).
    """
    conflict = (forgetting @ remembering).clamp(max=0)  # no branch, for which the processor would wait for a GPU
    return forgetting - conflict / (remembering @ remembering).clamp(min=1e-12) * remembering


def _non_member_loss(task: Task, attack: GuideAttack, forget: ForgetBatch) -> Loss:
    """Return the weighted binary cross-entropy of the attack's answers against "non-member", as a function of the forward pass."""

    def loss(forward: Forward) -> Tensor:
        attacked = task.objective.for_step().attacked(forward, forget.samples)
        member = attack.member_logit(attacked, forget.samples.targets)
        return (forget.weights * functional.softplus(member)).mean()

    return loss
