import torch
from torch import Tensor, nn

from tests.unlearning.small import task
from unlearning.hardware import autocast, batched_forward, channels_last, in_float32, inference_batches, mixed
from unlearning.specs import Stop
from unlearning.stopping.criterion import calibrate, check
from unlearning.task import Outcome, Progress, Steps

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


def test_batched_outputs_are_those_of_one_batch_in_the_inputs_order() -> None:
    model = Counting(network())
    with torch.no_grad():
        found = batched_forward(model)(IMAGES)
        assert model.sizes == [64, 64, 22]
        torch.testing.assert_close(found, network()(IMAGES))


def test_gradients_flow_through_the_batches() -> None:
    gradients = []
    for wrap in (batched_forward, lambda model: model):
        model = network()
        wrap(model)(IMAGES).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_no_more_than_asked_for_and_more_at_once_on_a_gpu() -> None:
    inputs = torch.arange(3000)

    def sizes(device: str, most: int = 1024) -> set[int]:
        return {len(part) for part in inference_batches(inputs, torch.device(device), max_size=most)[:-1]}

    assert sizes("cpu") == {64}
    assert sizes("cpu", most=10) == sizes("cuda", most=10) == {10}
    assert sizes("cuda") == sizes("cuda", most=9999) == {1024}
    assert torch.equal(torch.cat(inference_batches(inputs, CPU)), inputs)


def test_no_samples_are_one_empty_batch() -> None:
    assert batched_forward(network())(IMAGES[:0]).shape == (0, 4)


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
