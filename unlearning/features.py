"""What a network computes before its outputs: the linear layer that gives them, and the features that enter it.

Hooks read it, which see no other rank. So each rank computes whole batches here.
"""

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, undivided
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers


def output_layer(model: nn.Module, objective: Objective, batch: Batch) -> nn.Linear | None:
    """Find the linear layer that gives the outputs of a batch, whichever it is; None if none does.

    The model may have others of that shape, or use one twice. One output z stands for the logits 0 and z.
    """
    objective = undivided(objective)
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


def penultimate_features(
    model: nn.Module,
    objective: Objective,
    layer: nn.Linear,
    samples: SampleSet,
    *,
    device: torch.device | None = None,
    max_size: int | None = None,
) -> Tensor:
    """Compute what enters the layer (`output_layer`) where it gives the outputs, (n, d) float32.

    device, max_size: as of `batched_answers`.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, arguments, output: calls.append((arguments[0], output)))
    try:
        outputs = batched_answers(undivided(objective), model, samples, device=device, max_size=max_size).outputs
    finally:
        hook.remove()
    found, start = [], 0
    for inputs, output in calls:
        # A layer that is called twice in a pass gives the outputs in one of the calls only.
        if outputs is not None and _are_outputs(output, outputs[start : start + len(output)]):
            found.append(inputs.flatten(1))
            start += len(output)
    return torch.cat(found).float()


def _are_outputs(found: Tensor, outputs: Tensor) -> bool:
    if len(found) != len(outputs):
        return False
    same = found if found.shape == outputs.shape else found.reshape(len(outputs), -1)
    wanted = outputs if same.shape == outputs.shape else outputs[:, 1:]
    return same.shape == wanted.shape and bool((same.to(wanted.dtype) == wanted).all())
