import pytest

from worker.failures import NoGpu
from worker.settings import Device, choose_device


@pytest.mark.parametrize(
    ("wanted", "gpu", "chosen"),
    [
        (Device.AUTO, True, "cuda"),
        (Device.AUTO, False, "cpu"),
        (Device.CUDA, True, "cuda"),
        (Device.CPU, True, "cpu"),
        (Device.CPU, False, "cpu"),
    ],
)
def test_the_gpu_is_used_where_there_is_one_unless_the_operator_wants_the_processor(
    wanted: Device, gpu: bool, chosen: str
) -> None:
    assert choose_device(wanted, gpu=gpu) == chosen


def test_a_worker_that_is_to_use_a_gpu_does_not_fall_back_to_the_processor() -> None:
    with pytest.raises(NoGpu):
        choose_device(Device.CUDA, gpu=False)
