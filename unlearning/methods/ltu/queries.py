"""The query sets that LTU's remembering feedback is tested on: near in features, near in labels, and uniform [paper].

Feature extractor and label vectorisation are [ours]: the frozen penultimate features of the original model and the rows of the
linear layer that gives its logits, both compared by cosine. For other targets than classes the objective says how alike they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch, sent
from unlearning.data.objectives import Objective, undivided
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers, in_float32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbourhood:
    """How similar remaining samples are to forget samples.

    remain: D̂_r, n samples. similarity: cosine of each forget sample's features with each remaining sample's, (m, n); None if no
        linear layer gives the outputs.
    label_similarity: cosine between the rows of two classes, (classes, classes); None without classes or such a layer.
    likeness: of the targets of each forget sample and each remaining sample, (m, n); None with classes, or if the objective does
        not say how alike targets are.
    """

    remain: SampleSet
    similarity: Tensor | None
    label_similarity: Tensor | None
    likeness: Tensor | None = None


@in_float32
@torch.no_grad()
def neighbourhood(model: nn.Module, objective: Objective, *, forget: SampleSet, remain: SampleSet) -> Neighbourhood:
    """Compute the similarities once, on the original model. A query set that nothing is known for is uniform.

    Features are the inputs of the linear layer whose outputs are the model's, whichever layer that is: the model may have others of
    that shape, or use one twice.
    """
    objective = undivided(objective)  # what its layers compute is read by hooks, which see no other rank
    head = _head(model, objective, forget.select(torch.arange(min(2, len(forget)))))
    likeness = None
    if objective.predicts is not None and objective.predicts.likeness is not None:
        likeness = objective.predicts.likeness(forget.targets, remain.targets)
    if head is None:
        return Neighbourhood(remain=remain, similarity=None, label_similarity=None, likeness=likeness)
    if objective.classes is None:
        near, far = (_features(model, objective, head, samples) for samples in (forget, remain))
        return Neighbourhood(remain=remain, similarity=near @ far.T, label_similarity=None, likeness=likeness)
    rows = head.weight if len(head.weight) > 1 else torch.cat([-head.weight, head.weight])
    rows = functional.normalize(rows.float(), dim=-1)
    near, far = (_features(model, objective, head, samples) for samples in (forget, remain))
    return Neighbourhood(remain=remain, similarity=near @ far.T, label_similarity=rows @ rows.T)


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
    by_feature = uniform() if near.similarity is None else nearest(near.similarity[places].amax(0))
    if closeness is None:
        return tuple(near.remain.select(index) for index in (by_feature, uniform(), third))
    # Same class first. Among equals the order is random: the noise is far below any difference of cosines.
    jitter = sent(1e-3 * torch.rand(len(closeness), generator=generator), closeness.device)
    return tuple(near.remain.select(index) for index in (by_feature, nearest(closeness + jitter), third))


def _label_closeness(near: Neighbourhood, places: Tensor, targets: Tensor) -> Tensor | None:
    """Compute how close each remaining sample's target is to the nearest of a batch's, (n,); None if that is not known."""
    if near.label_similarity is not None:
        return near.label_similarity[targets].amax(0)[near.remain.targets]
    return None if near.likeness is None else near.likeness[places].amax(0)


def _head(model: nn.Module, objective: Objective, batch: Batch) -> nn.Linear | None:
    """Return the linear layer that gives the outputs of the batch, or None. One output z stands for the logits 0 and z."""
    outputs = batched_answers(objective, model, batch).outputs
    if outputs is None:
        return None
    widths = {objective.classes, 1} if objective.classes == 2 else {outputs.shape[1]}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features in widths]
    caught: list[tuple[nn.Linear, Tensor]] = []
    hooks = [layer.register_forward_hook(lambda own, _, output: caught.append((own, output))) for layer in layers]
    try:
        outputs = batched_answers(objective, model, batch).outputs
    finally:
        for hook in hooks:
            hook.remove()
    return next((layer for layer, output in caught if outputs is not None and _are_outputs(output, outputs)), None)


def _features(model: nn.Module, objective: Objective, head: nn.Linear, samples: SampleSet) -> Tensor:
    """Compute the inputs of the head from which the outputs come, scaled to unit length, (n, d)."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda _, arguments, output: calls.append((arguments[0], output)))
    try:
        outputs = batched_answers(objective, model, samples).outputs
    finally:
        hook.remove()
    found, start = [], 0
    for inputs, output in calls:
        # A head that is called twice in a pass gives the outputs in one of the calls only.
        if outputs is not None and _are_outputs(output, outputs[start : start + len(output)]):
            found.append(inputs.flatten(1))
            start += len(output)
    return functional.normalize(torch.cat(found).float(), dim=-1)


def _are_outputs(found: Tensor, outputs: Tensor) -> bool:
    if len(found) != len(outputs):
        return False
    same = found if found.shape == outputs.shape else found.reshape(len(outputs), -1)
    wanted = outputs if same.shape == outputs.shape else outputs[:, 1:]
    return same.shape == wanted.shape and bool((same.to(wanted.dtype) == wanted).all())
