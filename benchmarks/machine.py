"""Where the benchmarks compute, and what a second is there."""

import time

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds() -> float:
    """Processor seconds of this process so far; where a GPU works beside it, seconds on the clock, once it has done its work."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def named() -> dict[str, str]:
    """The GPU, as a part of what results are kept under; nothing where there is none."""
    return {} if DEVICE.type == "cpu" else {"device": torch.cuda.get_device_name()}
