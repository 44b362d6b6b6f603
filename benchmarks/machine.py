"""The machine that the benchmarks run on: its device, its clock and its description."""

import platform
import time
from pathlib import Path

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds() -> float:
    """Return this process's CPU seconds so far; on a GPU, wall-clock seconds after it has finished its work."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def identity() -> dict[str, str]:
    """Return the GPU's name, a part of the key of stored results; nothing without a GPU."""
    return {} if DEVICE.type == "cpu" else {"device": torch.cuda.get_device_name()}


def description() -> str:
    """Describe GPU, CPU, cores and operating system in one line."""
    names = (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    cores = len([line for line in _lines("/proc/cpuinfo") if line.startswith("processor")]) or 1
    host = f"{next(names, platform.processor())}, {cores} cores, {platform.system()} {platform.release()}"
    return ", ".join([*identity().values(), host])


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
