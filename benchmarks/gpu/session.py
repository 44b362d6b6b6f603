"""A session of the command: its time, its steps and its results, which are written after each of them."""

import contextlib
import json
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.machine import DEVICE
from benchmarks.writing import Row, content
from unlearning.files import write_atomically

T = TypeVar("T")

_SAMPLING = 0.25
"""Seconds between two readings of the GPU's utilisation."""


@dataclass(kw_only=True, slots=True, eq=False)
class Budget:
    """The time of one step. ends: monotonic seconds after which the step begins no further item. left_out: those not begun."""

    step: str
    ends: float
    left_out: list[str] = field(default_factory=list)

    def begins(self, item: str) -> bool:
        """Say whether there is time to begin an item; one that is not begun is noted."""
        begun = time.monotonic() < self.ends
        print(f"  {item}" if begun else f"  {item}: left out, the time of the step {self.step} is over", flush=True)
        if not begun:
            self.left_out.append(item)
        return begun


@dataclass(kw_only=True, slots=True, eq=False)
class Session:
    """One run of the command.

    dry_run: whether every step is taken in small. data: the path of the images. out: the file of the results. folder: for what
    need not last. ends: monotonic seconds after which no step begins. rows, steps, facts: the results so far; `write` writes them.
    """

    dry_run: bool
    data: Path
    out: Path
    folder: Path
    ends: float
    rows: list[Row] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        """Write the results so far in place of the earlier ones, all or nothing."""
        found = {**content("gpu", self.rows), "dry_run": self.dry_run, "steps": self.steps, "facts": self.facts}
        write_atomically(self.out, (json.dumps(_finite(found), indent=2) + "\n").encode())

    def run(self, name: str, work: Callable[["Session", Budget], T], *, seconds: float) -> T | None:
        """Take one step within `seconds`, note what it took, and write the results. A step that fails does not end the session.

        Returns what the step returned; None if it failed, or was left out because the time of the command is over.
        """
        entry: dict[str, Any] = {"step": name, "budget_seconds": seconds}
        self.steps.append(entry)
        if time.monotonic() >= self.ends:
            print(f"{name}: left out, the time of the command is over", flush=True)
            entry["state"] = "left_out"
            self.write()
            return None
        print(f"{name}: at most {seconds:.0f} s", flush=True)
        budget = Budget(step=name, ends=min(self.ends, time.monotonic() + seconds))
        begun, entry["state"], made = time.monotonic(), "begun", None
        with self._watched(entry):
            try:
                made = work(self, budget)
                entry["state"] = "partly_done" if budget.left_out else "done"
            except Exception as error:
                traceback.print_exc()
                entry |= {"state": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
        entry |= {"seconds": time.monotonic() - begun, "left_out": budget.left_out}
        self.write()
        print(f"{name}: {entry['state']}, {entry['seconds']:.1f} s", flush=True)
        return made

    @contextlib.contextmanager
    def _watched(self, entry: dict[str, Any]) -> Iterator[None]:
        """Note the peak memory, bytes, and the mean utilisation, percent, of the GPU during a step; null where unknown."""
        entry |= {"peak_memory_bytes": None, "utilisation_percent": None}
        if DEVICE.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(DEVICE)
        ended, readings = threading.Event(), list[int]()
        watcher = threading.Thread(target=_read_utilisation, args=(ended, readings), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            entry["peak_memory_bytes"] = torch.cuda.max_memory_allocated(DEVICE)
            if readings:
                entry["utilisation_percent"] = sum(readings) / len(readings)


def _read_utilisation(ended: threading.Event, readings: list[int]) -> None:
    """Read the utilisation until `ended` is set. Without NVIDIA's library, which torch asks, there are no readings."""
    try:
        while not ended.wait(_SAMPLING):
            readings.append(torch.cuda.utilization(DEVICE))
    except (ImportError, RuntimeError, OSError):
        return


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON cannot hold, by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
