"""Where a worker computes."""

from enum import StrEnum

from worker.errors import NoGpu


class Device(StrEnum):
    """What the operator wants."""

    AUTO = "auto"  # the GPU where there is one
    CUDA = "cuda"  # the GPU, or no result
    CPU = "cpu"


def choose_device(wanted: Device, *, gpu: bool) -> str:
    """PyTorch's name of the device; `gpu`: whether there is one that CUDA can use.

    Raises NoGpu where only a GPU will do: on the processor a job may take days, and nobody would be told why.
    """
    if wanted is Device.CUDA and not gpu:
        raise NoGpu(
            "The worker is to use a GPU (EXPUNGE_DEVICE=cuda), and CUDA finds none. See nvidia-smi on its machine."
        )
    return "cuda" if gpu and wanted is not Device.CPU else "cpu"
