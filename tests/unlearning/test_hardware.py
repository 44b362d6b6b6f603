import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.small import task
from unlearning.data.batches import Batch
from unlearning.data.objectives import Answers, classification
from unlearning.hardware import (
    autocast,
    batched_answers,
    channels_last,
    in_fastest_layout,
    in_float32,
    input_layout,
    mixed,
)
from unlearning.specs import Stop
from unlearning.steps import Outcome, Progress, Steps
from unlearning.stopping.criterion import calibrate, check

CPU = torch.device("cpu")
IMAGES = torch.randn(150, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Notes how many samples each forward pass gets."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        answers: Tensor = self.model(inputs)
        return answers


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
    ).eval()


LABELS = torch.arange(150) % 4
OBJECTIVE = classification(4)


def batched(model: nn.Module, count: int = 150, *, max_size: int | None = None) -> Answers:
    return batched_answers(OBJECTIVE, model, Batch(IMAGES[:count], LABELS[:count]), max_size=max_size)


def test_batched_answers_are_those_of_one_batch_in_the_samples_order() -> None:
    model = Counting(network())
    found = batched(model)
    with torch.no_grad():
        expected = network()(IMAGES)

    assert model.sizes == [64, 64, 22]
    assert found.outputs is not None
    torch.testing.assert_close(found.outputs, expected)
    torch.testing.assert_close(found.losses, nn.functional.cross_entropy(expected, LABELS, reduction="none"))
    assert not found.outputs.requires_grad


def test_no_more_than_asked_for_at_once() -> None:
    model = Counting(network())
    batched(model, 25, max_size=10)

    assert model.sizes == [10, 10, 5]


def test_no_samples_are_one_empty_batch() -> None:
    assert batched(network(), 0).losses.shape == (0,)


class Viewing(nn.Module):
    """Flattens by `view`, which needs the usual layout, as many networks in tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(512, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.head(self.features(inputs).view(len(inputs), -1))
        return answers


def test_a_network_is_laid_out_channels_last_where_it_runs_so_and_its_inputs_follow() -> None:
    runs, views, volumes = network(), Viewing().eval(), nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten()).eval()
    before = views(IMAGES)
    for model, inputs in ((runs, IMAGES), (views, IMAGES), (volumes, torch.randn(4, 1, 3, 3, 3))):
        in_fastest_layout(model, inputs)

    assert input_layout(runs)(IMAGES).is_contiguous(memory_format=torch.channels_last)
    assert input_layout(views)(IMAGES) is IMAGES
    assert torch.equal(views(IMAGES), before)
    torch.testing.assert_close(runs(channels_last(IMAGES)), network()(IMAGES))


def test_images_are_laid_out_channels_last_and_other_inputs_are_not_copied() -> None:
    assert channels_last(IMAGES).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(channels_last(IMAGES), IMAGES)
    rows = IMAGES[:, 0, 0]
    assert channels_last(rows) is rows


def test_a_check_of_the_stop_never_runs_a_whole_set_at_once() -> None:
    """A held-out set may be of any size; the memory that a check takes is not."""
    given = task()
    model = Counting(given.model).eval()
    given.model = model
    check(calibrate(given, Stop()), model)

    assert max(model.sizes) <= 64 < len(given.criterion)


CPU = torch.device("cpu")


def product() -> Tensor:
    return torch.ones(2, 2) @ torch.ones(2, 2)


def test_bf16_is_used_where_it_was_asked_for_and_nowhere_else() -> None:
    with autocast(CPU, "bfloat16"):
        assert product().dtype == torch.bfloat16
    with autocast(CPU, "float32"):
        assert product().dtype == torch.float32


def test_a_gpu_that_only_emulates_bf16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)

    with autocast(torch.device("cuda"), "auto"):
        assert not torch.is_autocast_enabled("cuda")


def test_what_is_measured_is_computed_in_float32_within_bf16() -> None:
    with autocast(CPU, "bfloat16"):
        assert in_float32(product)().dtype == torch.float32
        assert product().dtype == torch.bfloat16


def test_a_generators_steps_run_in_bf16_and_its_caller_does_not() -> None:
    seen: list[torch.dtype] = []

    def steps() -> Steps:
        seen.append(product().dtype)
        yield Progress(phase="unlearn", step=1, total=1)
        seen.append(product().dtype)
        return Outcome(steps=1, stopped_because="completed")

    running = mixed(steps(), device=CPU, precision="bfloat16")
    next(running)
    assert product().dtype == torch.float32
    assert next(running, None) is None
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_within_one_step_in_bfloat16_a_second_pass_sees_the_weights_that_the_first_one_moved() -> None:
    """Also with a gradient, though the first pass needed none."""
    layer = nn.Linear(4, 1, bias=False)
    inputs = torch.ones(1, 4)
    with autocast(CPU, "bfloat16"):
        with torch.no_grad():
            layer(inputs)
            layer.weight.fill_(2.0)
        found = layer(inputs)
        found.sum().backward()

    assert float(found.detach()) == 8
    assert layer.weight.grad is not None
