"""The query sets that LTU's remembering feedback is tested on: near in features, near in labels, and uniform [paper].

Feature extractor and label vectorisation are [ours]: the frozen penultimate features of the original model and the rows of its
last linear layer, both compared by cosine.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.objectives import Objective
from unlearning.data.samples import Batch, SampleSet
from unlearning.hardware import batched_forward, in_float32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbourhood:
    """How similar remaining samples are to forget samples.

    remain: D̂_r, n samples. similarity: cosine of each forget sample's features with each remaining sample's, (m, n).
    label_similarity: cosine between the rows of two classes, (classes, classes). Both are None without a last linear layer.
    """

    remain: SampleSet
    similarity: Tensor | None
    label_similarity: Tensor | None


@in_float32
@torch.no_grad()
def neighbourhood(model: nn.Module, objective: Objective, *, forget: SampleSet, remain: SampleSet) -> Neighbourhood:
    """Compute the similarities once, on the original model. Without a last linear layer all query sets are uniform."""
    last = _last_linear(model, objective.classes)
    if last is None:
        return Neighbourhood(remain=remain, similarity=None, label_similarity=None)
    rows = functional.normalize(last.weight, dim=-1)
    similarity = _features(model, last, forget.inputs) @ _features(model, last, remain.inputs).T
    return Neighbourhood(remain=remain, similarity=similarity, label_similarity=rows @ rows.T)


def query_sets(
    near: Neighbourhood, batch: Tensor, targets: Tensor, *, size: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Draw three query sets of `size`, near in features, near in labels, and uniform, for a batch of forget samples.

    batch: their positions in the forget set, (k,) int64. targets: their labels, (k,).
    """
    uniform = torch.randperm(len(near.remain), generator=generator)[:size]
    if near.similarity is None or near.label_similarity is None:
        return tuple(near.remain.select(torch.randperm(len(near.remain), generator=generator)[:size]) for _ in range(3))
    by_feature = near.similarity[batch].amax(0).topk(min(size, len(near.remain))).indices
    # Same class first. Among equals the order is random: the noise is far below any difference of cosines.
    closeness = near.label_similarity[targets].amax(0)[near.remain.targets]
    jitter = 1e-3 * torch.rand(len(closeness), generator=generator).to(closeness.device)
    by_label = (closeness + jitter).topk(min(size, len(near.remain))).indices
    return tuple(near.remain.select(index) for index in (by_feature, by_label, uniform))


def _last_linear(model: nn.Module, classes: int | None) -> nn.Linear | None:
    """Return the last linear layer with one output a class, or None."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == classes]
    return linears[-1] if linears else None


def _features(model: nn.Module, last: nn.Linear, inputs: Tensor) -> Tensor:
    """Compute the inputs of the last linear layer, scaled to unit length, (n, d)."""
    caught: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        batched_forward(model)(inputs)
    finally:
        hook.remove()
    return functional.normalize(torch.cat(caught).flatten(1).float(), dim=-1)
