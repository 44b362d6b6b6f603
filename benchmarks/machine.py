"""Where the benchmarks compute, and what a second is there."""

import platform
import time
from pathlib import Path

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds() -> float:
    """Processor seconds of this process so far; where a GPU works beside it, seconds on the clock, once it has done its work."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def identity() -> dict[str, str]:
    """The GPU, as a part of what results are kept under; nothing where there is none."""
    return {} if DEVICE.type == "cpu" else {"device": torch.cuda.get_device_name()}


def description() -> str:
    """GPU, processor, cores and operating system, in one line."""
    names = (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    cores = len([line for line in _lines("/proc/cpuinfo") if line.startswith("processor")]) or 1
    host = f"{next(names, platform.processor())}, {cores} cores, {platform.system()} {platform.release()}"
    return ", ".join([*identity().values(), host])


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
