"""The query sets that LTU's remembering feedback is tested on: near in features, near in labels, and uniform [paper].

Feature extractor and label vectorisation are [ours]: the frozen penultimate features of the original model and the rows of the
linear layer that gives its logits, both compared by cosine.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch, sent
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers, in_float32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbourhood:
    """How similar remaining samples are to forget samples.

    remain: D̂_r, n samples. similarity: cosine of each forget sample's features with each remaining sample's, (m, n).
    label_similarity: cosine between the rows of two classes, (classes, classes). Both are None if no linear layer gives the logits.
    """

    remain: SampleSet
    similarity: Tensor | None
    label_similarity: Tensor | None


@in_float32
@torch.no_grad()
def neighbourhood(model: nn.Module, objective: Objective, *, forget: SampleSet, remain: SampleSet) -> Neighbourhood:
    """Compute the similarities once, on the original model. If no linear layer gives the logits all query sets are uniform.

    Features are the inputs of the linear layer whose outputs are the logits, whichever layer that is: the model may have others of
    that shape, or use one twice.
    """
    head = _head(model, objective, forget.select(torch.arange(min(2, len(forget)))))
    if head is None:
        return Neighbourhood(remain=remain, similarity=None, label_similarity=None)
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
    uniform = torch.randperm(len(near.remain), generator=generator)[:size]
    if near.similarity is None or near.label_similarity is None:
        return tuple(near.remain.select(torch.randperm(len(near.remain), generator=generator)[:size]) for _ in range(3))
    by_feature = near.similarity[sent(batch, near.similarity.device)].amax(0).topk(min(size, len(near.remain))).indices
    # Same class first. Among equals the order is random: the noise is far below any difference of cosines.
    closeness = near.label_similarity[targets].amax(0)[near.remain.targets]
    jitter = sent(1e-3 * torch.rand(len(closeness), generator=generator), closeness.device)
    by_label = (closeness + jitter).topk(min(size, len(near.remain))).indices
    return tuple(near.remain.select(index) for index in (by_feature, by_label, uniform))


def _head(model: nn.Module, objective: Objective, batch: Batch) -> nn.Linear | None:
    """Return the linear layer whose output is the logits of the batch, or None. One output z stands for the logits 0 and z."""
    widths = {objective.classes, 1} if objective.classes == 2 else {objective.classes}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features in widths]
    caught: list[tuple[nn.Linear, Tensor]] = []
    hooks = [layer.register_forward_hook(lambda own, _, output: caught.append((own, output))) for layer in layers]
    try:
        logits = batched_answers(objective, model, batch).logits
    finally:
        for hook in hooks:
            hook.remove()
    return next((layer for layer, output in caught if logits is not None and _are_logits(output, logits)), None)


def _features(model: nn.Module, objective: Objective, head: nn.Linear, samples: SampleSet) -> Tensor:
    """Compute the inputs of the head from which the logits come, scaled to unit length, (n, d)."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda _, arguments, output: calls.append((arguments[0], output)))
    try:
        logits = batched_answers(objective, model, samples).logits
    finally:
        hook.remove()
    found, start = [], 0
    for inputs, output in calls:
        # A head that is called twice in a pass gives the logits in one of the calls only.
        if logits is not None and _are_logits(output, logits[start : start + len(output)]):
            found.append(inputs.flatten(1))
            start += len(output)
    return functional.normalize(torch.cat(found).float(), dim=-1)


def _are_logits(output: Tensor, logits: Tensor) -> bool:
    if len(output) != len(logits):
        return False
    same = output if output.shape == logits.shape else output.reshape(len(logits), -1)
    wanted = logits if same.shape == logits.shape else logits[:, 1:]
    return same.shape == wanted.shape and bool((same.to(wanted.dtype) == wanted).all())
