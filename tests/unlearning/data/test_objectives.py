from collections import OrderedDict
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward, Objective, answers, classification, logits_of
from unlearning.errors import UnsupportedWorkload

LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
BATCH = Batch(torch.arange(5.0)[:, None], torch.tensor([0, 1, 2, 0, 1]))


class Outputs(NamedTuple):
    auxiliary: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        SimpleNamespace(loss=None, logits=LOGITS),
        OrderedDict(loss=torch.zeros(()), logits=LOGITS),
        Outputs(auxiliary=LOGITS + 1, logits=LOGITS),
        (None, LOGITS, LOGITS + 1),
        [LOGITS],
        {"scores": LOGITS, "hidden": LOGITS + 1},
    ],
    ids=["tensor", "attribute", "key", "named tuple", "tuple", "list", "other keys"],
)
def test_the_logits_are_found_by_their_name_or_as_the_first_tensor(output: object) -> None:
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [None, 3.0, {}, (), {"logits": None}, SimpleNamespace(scores=LOGITS)])
def test_an_output_without_logits_is_refused_with_what_to_return(output: object) -> None:
    with pytest.raises(UnsupportedWorkload, match="Return a tensor"):
        logits_of(output)


def test_one_output_a_sample_is_trained_by_binary_cross_entropy() -> None:
    objective, one, labels = classification(2), LOGITS[:, :1], torch.tensor([0, 1, 1, 0, 1])
    for output in (one, one[:, 0]):
        losses = objective.losses(lambda inputs, output=output: output, Batch(BATCH.inputs, labels))
        expected = functional.binary_cross_entropy_with_logits(one[:, 0], labels.float(), reduction="none")
        torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("classes", [-1, 0, 1])
def test_fewer_than_two_classes_are_refused_with_what_to_use(classes: int) -> None:
    with pytest.raises(UnsupportedWorkload, match=r"classification\(2\)"):
        classification(classes)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 4), (5, 3, 7), (5, 7, 3)])
def test_logits_of_another_shape_are_refused_with_the_shape_that_is_needed(shape: tuple[int, ...]) -> None:
    objective = classification(3)
    with pytest.raises(UnsupportedWorkload, match=r"needs \(n, 3\)"):
        objective.losses(lambda inputs: torch.zeros(shape), BATCH)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_logits_are_compared_in_float32_and_long_ones_as_they_are(dtype: torch.dtype) -> None:
    objective = classification(3)

    assert answers(objective, lambda inputs: LOGITS.to(dtype), BATCH).losses.dtype == torch.float32
    assert answers(objective, lambda inputs: LOGITS.double(), BATCH).losses.dtype == torch.float64


def own(scale: float) -> Objective:
    """Takes its losses from inputs that are scaled differently from those of its logits."""

    def logits(forward: Forward, inputs: Tensor) -> Tensor:
        found: Tensor = forward(2.0 * inputs)
        return found

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(forward(scale * batch.inputs), batch.targets, reduction="none")

    return Objective(losses=losses, logits=logits, scramble=classification(3).scramble, classes=3)


@pytest.mark.parametrize(("objective", "passes"), [(classification(3), 1), (own(2.0), 1), (own(3.0), 2)])
def test_one_pass_answers_both_only_where_both_ask_for_the_same(objective: Objective, passes: int) -> None:
    asked: list[Tensor] = []

    def forward(inputs: Tensor) -> Tensor:
        asked.append(inputs)
        return inputs * torch.tensor([1.0, -1.0, 0.5])

    found = answers(objective, forward, BATCH)
    assert len(asked) == passes
    assert objective.logits is not None
    torch.testing.assert_close(found.losses, objective.losses(forward, BATCH))
    torch.testing.assert_close(found.outputs, objective.logits(forward, BATCH.inputs))


def test_logits_of_an_unknown_number_of_classes_are_refused() -> None:
    with pytest.raises(UnsupportedWorkload, match="number of classes"):
        Objective(losses=own(2.0).losses, scramble=own(2.0).scramble, logits=own(2.0).logits)


def test_a_mean_where_losses_of_samples_are_due_is_refused() -> None:
    objective = Objective(
        losses=lambda forward, batch: functional.cross_entropy(forward(batch.inputs), batch.targets),
        scramble=classification(3).scramble,
    )
    with pytest.raises(UnsupportedWorkload, match="one loss a sample"):
        answers(objective, lambda inputs: LOGITS, BATCH)


def test_one_pass_gives_losses_and_logits_however_the_model_takes_its_inputs() -> None:
    calls: list[str] = []

    def model(*, tokens: Tensor, mask: Tensor) -> Tensor:
        calls.append("called")
        return LOGITS[tokens[:, 0].long()] * mask

    batch = Batch({"tokens": BATCH.inputs, "mask": torch.ones(5, 1)}, BATCH.targets)
    found = answers(classification(3, spread=True), model, batch)

    assert calls == ["called"]
    assert found.outputs is not None
    torch.testing.assert_close(found.outputs, LOGITS)
    torch.testing.assert_close(found.losses, functional.cross_entropy(LOGITS, BATCH.targets, reduction="none"))
