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
