"""The query sets that LTU's remembering feedback is tested on: near in features, near in labels, and uniform [paper].

Feature extractor and label vectorisation are [ours]: the frozen penultimate features of the original model and the rows of the
linear layer that gives its logits, both compared by cosine. A text's features are the mean over its tokens (docs/methods.md §5).
For other targets than classes the objective says how alike they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch, sent
from unlearning.data.objectives import Objective
from unlearning.data.objectives.prediction import Read
from unlearning.data.samples import SampleSet
from unlearning.features import mean_hidden_states, output_layer, penultimate_features
from unlearning.hardware import in_float32

Rows = Callable[[Tensor], Tensor]
"""(positions of forget samples (k,)) → (k, n)."""

_AT_ONCE = 2**24
"""Most pairs of samples whose similarity is kept (64 MiB)."""
_OTHERS = 4096
"""Remaining targets that are compared at once."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbourhood:
    """How similar remaining samples are to forget samples.

    remain: D̂_r, n samples. similarity: (positions of k forget samples) → cosine of each one's features with each remaining
        sample's, (k, n); None if no linear layer gives the outputs.
    label_similarity: cosine between the rows of two classes, (classes, classes); None without classes or such a layer.
    likeness: the same of targets, as alike as the objective says; None with classes, or if it does not say.
    """

    remain: SampleSet
    similarity: Rows | None
    label_similarity: Tensor | None
    likeness: Rows | None = None


@in_float32
@torch.no_grad()
def neighbourhood(model: nn.Module, objective: Objective, *, forget: SampleSet, remain: SampleSet) -> Neighbourhood:
    """Find the similarities on the original model: at once for few pairs of samples, else at each step of those that it needs.

    A query set that nothing is known for is uniform.

    Features are the inputs of the linear layer whose outputs are the model's, scaled to unit length; of a text their mean over its
    tokens.
    """
    likeness = None
    if objective.predicts is not None and objective.predicts.likeness is not None:
        likeness = _rows(_alike(objective.predicts.likeness, forget.targets, remain.targets), forget, remain)
    if objective.token_logits is not None:
        similarity = _of_texts(model, objective, forget=forget, remain=remain)
        return Neighbourhood(remain=remain, similarity=similarity, label_similarity=None, likeness=likeness)
    head = output_layer(model, objective, forget.select(torch.arange(min(2, len(forget)))))
    if head is None:
        return Neighbourhood(remain=remain, similarity=None, label_similarity=None, likeness=likeness)
    near, far = (
        functional.normalize(penultimate_features(model, objective, head, samples), dim=-1)
        for samples in (forget, remain)
    )
    similarity = _rows(_cosines(near, far), forget, remain)
    if objective.classes is None:
        return Neighbourhood(remain=remain, similarity=similarity, label_similarity=None, likeness=likeness)
    rows = head.weight if len(head.weight) > 1 else torch.cat([-head.weight, head.weight])
    rows = functional.normalize(rows.float(), dim=-1)
    return Neighbourhood(remain=remain, similarity=similarity, label_similarity=rows @ rows.T)


def _of_texts(model: nn.Module, objective: Objective, *, forget: SampleSet, remain: SampleSet) -> Rows | None:
    found = [mean_hidden_states(model, objective, samples) for samples in (forget, remain)]
    near, far = (None if each is None else functional.normalize(each, dim=-1) for each in found)
    return None if near is None or far is None else _rows(_cosines(near, far), forget, remain)


def _rows(compute: Rows, forget: SampleSet, remain: SampleSet) -> Rows:
    """Compute all rows now if there are few pairs, else return what computes some."""
    if len(forget) * len(remain) > _AT_ONCE:
        return compute
    whole = compute(torch.arange(len(forget), device=remain.targets.device))
    return lambda places: whole[places]


def _cosines(near: Tensor, far: Tensor) -> Rows:
    return in_float32(lambda places: near[places] @ far.T)


def _alike(likeness: Read, targets: Tensor, others: Tensor) -> Rows:
    """Compare a part of the other targets at a time: those of texts become counts of each token."""
    return in_float32(
        lambda places: torch.cat([likeness(targets[places], part) for part in torch.split(others, _OTHERS)], 1)
    )


def query_sets(
    near: Neighbourhood, batch: Tensor, targets: Tensor, *, size: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Draw three query sets of `size`, near in features, near in labels, and uniform, for a batch of forget samples.

    batch: their positions in the forget set, (k,) int64. targets: their labels, (k,).
    """

    def uniform() -> Tensor:
        return torch.randperm(len(near.remain), generator=generator)[:size]

    def nearest(closeness: Tensor) -> Tensor:
        return closeness.topk(min(size, len(near.remain))).indices

    places, third = sent(batch, near.remain.targets.device), uniform()
    closeness = _label_closeness(near, places, targets)
    if near.similarity is None and closeness is None:
        return tuple(near.remain.select(uniform()) for _ in range(3))
    by_feature = uniform() if near.similarity is None else nearest(near.similarity(places).amax(0))
    if closeness is None:
        return tuple(near.remain.select(index) for index in (by_feature, uniform(), third))
    # Same class first. Among equals the order is random: the noise is far below any difference of cosines.
    jitter = sent(1e-3 * torch.rand(len(closeness), generator=generator), closeness.device)
    return tuple(near.remain.select(index) for index in (by_feature, nearest(closeness + jitter), third))


def _label_closeness(near: Neighbourhood, places: Tensor, targets: Tensor) -> Tensor | None:
    """Compute how close each remaining sample's target is to the nearest of a batch's, (n,); None if that is not known."""
    if near.label_similarity is not None:
        return near.label_similarity[targets].amax(0)[near.remain.targets]
    return None if near.likeness is None else near.likeness(places).amax(0)
