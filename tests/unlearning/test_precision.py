import torch
from torch import Tensor

from unlearning.precision import autocast, in_float32, mixed
from unlearning.task import Outcome, Progress, Steps

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
