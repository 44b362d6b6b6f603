"""What a network computes before its outputs: the linear layer that gives them, and the features that enter it.

Hooks read it, which see no other rank. So each rank computes whole batches here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Answers, Objective, undivided
from unlearning.data.samples import SampleSet
from unlearning.hardware import batched_answers, inference_batches


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


class FeatureReader:
    """Reads what enters a layer (`output_layer`) where it gives the outputs, while a set's answers are computed in its context.

    places: (k,) positions of the samples of which the features are kept; all if None. Give `note` to `batched_answers`.
    """

    def __init__(self, layer: nn.Linear, places: NDArray[np.int64] | None = None) -> None:
        self.places = places
        self._layer, self._start = layer, 0
        self._wanted = None if places is None else np.sort(places)
        self._kept: list[Tensor] = []

    def __enter__(self) -> "FeatureReader":
        self._context = calls_of(self._layer)
        self._calls = self._context.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)

    def note(self, found: Answers) -> None:
        """Keep the features of the batch that was just answered."""
        outputs = found.outputs
        # A layer that is called twice in a pass gives the outputs in one of the calls only.
        given = next((c.given for c in self._calls if outputs is not None and _are_outputs(c.returned, outputs)), None)
        self._calls.clear()
        start, self._start = self._start, self._start + len(found.targets)
        if given is None:
            return
        features = given.flatten(1).float()
        if self._wanted is not None:
            low, high = np.searchsorted(self._wanted, [start, self._start])
            features = features[torch.from_numpy(self._wanted[low:high] - start).to(features.device)]
        self._kept.append(features)

    @property
    def features(self) -> Tensor:
        """The features of the samples at `places`, in that order, (k, d) float32."""
        found = torch.cat(self._kept)
        if self.places is None:
            return found
        return found[torch.from_numpy(np.searchsorted(np.sort(self.places), self.places)).to(found.device)]

    def read(
        self,
        model: nn.Module,
        objective: Objective,
        samples: SampleSet,
        *,
        device: torch.device | None = None,
        max_size: int | None = None,
    ) -> None:
        """Read the features in a pass of their own over the samples at `places`, where the answers are divided among ranks."""
        assert self._wanted is not None
        chosen = samples.take(torch.from_numpy(self._wanted))
        features = penultimate_features(model, objective, self._layer, chosen, device=device, max_size=max_size)
        self._kept = [features]


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
    with FeatureReader(layer) as reader:
        batched_answers(undivided(objective), model, samples, device=device, max_size=max_size, after_each=reader.note)
    return reader.features


def mean_hidden_states(model: nn.Module, objective: Objective, samples: SampleSet) -> Tensor | None:
    """Compute the mean over a text's tokens of what enters the linear layer that gives the token logits, (n, d) float32.

    None for an objective without `token_logits`, or if no linear layer gives them as they are.
    """
    read = undivided(objective).token_logits
    if read is None:
        return None
    layers: list[nn.Module] = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    found = []
    for batch in inference_batches(model, samples):
        with calls_of(*layers) as calls:
            logits, real = read(model, batch.inputs)
        entered = next((call.given for call in calls if _are_outputs(call.returned, logits)), None)
        if entered is None:
            return None
        weights = real[..., None].float()
        found.append((entered.float() * weights).sum(1) / weights.sum(1).clamp(min=1))
        layers = [call.layer for call in calls if call.given is entered][:1]
    return torch.cat(found)


def _are_outputs(found: Tensor, outputs: Tensor) -> bool:
    if len(found) != len(outputs):
        return False
    same = found if found.shape == outputs.shape else found.reshape(len(outputs), -1)
    wanted = outputs if same.shape == outputs.shape else outputs[:, 1:]
    return same.shape == wanted.shape and bool((same.to(wanted.dtype) == wanted).all())
