"""LTU's meta scheme and its harmonisation: the two formulas of the paper."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from unlearning.gradients import Loss, descend, flat_gradient, forward_with, trainable


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
    """g = ∇_θ [ w·L_s(θ) + Σ_i L_q^i(θ − α∇L_s(θ)) ] as one vector (p,) over all parameters (eqs 1-5 of the paper).

    The paper's weight of the support loss is w = 1. `order` "first" stops the gradient through the inner step; `meta` False
    leaves the inner step out (an ablation): ∇_θ [ w·L_s(θ) + Σ_i L_q^i(θ) ].
    """
    parameters = trainable(model)
    support_loss = support(forward_with(model, parameters))
    tuned = descend(parameters, support_loss, rate=inner_rate, differentiable=order == "second") if meta else parameters
    forward = forward_with(model, tuned)
    total = support_weight * support_loss
    for query in queries:
        total = total + query(forward)
    return flat_gradient(total, parameters)


def harmonise(forgetting: Tensor, remembering: Tensor) -> Tensor:
    """The forgetting gradient without what works against remembering (eq 12 of the paper).

    If cos(g_f, g_r) < 0:  g_f ← g_f − (g_f·g_r / ‖g_r‖²) g_r. Both (p,).
    """
    product = forgetting @ remembering
    if product >= 0:
        return forgetting
    return forgetting - product / (remembering @ remembering).clamp(min=1e-12) * remembering
