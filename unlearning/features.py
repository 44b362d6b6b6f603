"""What a network computes before its outputs: the linear layer that gives them, and the features that enter it.

Hooks read it, which see no other rank. So each rank computes whole batches here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, undivided
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers


class Call(NamedTuple):
    """One call of a layer. given: its first argument, None without any. returned: whatever it returned."""

    layer: nn.Module
    given: Any
    returned: Any


@contextmanager
def calls_of(*layers: nn.Module) -> Iterator[list[Call]]:
    """List the calls of layers, in their order, while the context lasts. Compute whole batches in it (`undivided`)."""
    calls: list[Call] = []

    def note(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], returned: Any) -> None:
        calls.append(Call(layer, next(iter((*arguments, *named.values())), None), returned))

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


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
    with calls_of(*layers) as calls:
        outputs = batched_answers(objective, model, batch).outputs
    found = next((call.layer for call in calls if outputs is not None and _are_outputs(call.returned, outputs)), None)
    assert found is None or isinstance(found, nn.Linear)
    return found


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
    with calls_of(layer) as calls:
        outputs = batched_answers(undivided(objective), model, samples, device=device, max_size=max_size).outputs
    found, start = [], 0
    for call in calls:
        # A layer that is called twice in a pass gives the outputs in one of the calls only.
        if outputs is not None and _are_outputs(call.returned, outputs[start : start + len(call.returned)]):
            found.append(call.given.flatten(1))
            start += len(call.returned)
    return torch.cat(found).float()


def _are_outputs(found: Tensor, outputs: Tensor) -> bool:
    if len(found) != len(outputs):
        return False
    same = found if found.shape == outputs.shape else found.reshape(len(outputs), -1)
    wanted = outputs if same.shape == outputs.shape else outputs[:, 1:]
    return same.shape == wanted.shape and bool((same.to(wanted.dtype) == wanted).all())
