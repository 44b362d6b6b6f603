"""The smallest workload with gates: a test stops a worker's process at a place of its choice, and sees that it is there.

A gate is a file in the folder that EXPUNGE_TEST_GATES names; while it is there, whoever comes to the gate waits.
"""

import dataclasses
import os
import threading
import time
from pathlib import Path

import torch
from celery import current_task
from torch import nn

from ledger.jobs.workers import CHECK_MODEL
from tests.worker import digits
from unlearning.data.workload import Workload

FOLDER = "EXPUNGE_TEST_GATES"
LATE = 40
"""Training steps of an attempt from which on the gate "unlearn" counts. Those before are slow, so that checkpoints are written."""
PATIENCE = 120.0


def gate(name: str) -> Path | None:
    folder = os.environ.get(FOLDER)
    return Path(folder) / name if folder else None


def stop_at(name: str) -> None:
    """Wait while the gate is shut, and leave a sign that somebody does."""
    shut, limit = gate(name), time.monotonic() + PATIENCE
    while shut is not None and shut.exists() and time.monotonic() < limit:
        shut.with_suffix(".reached").touch()
        threading.Event().wait(0.02)


def strike(name: str) -> bool:
    """Whether a fault is to happen here, now: each that was asked for happens once."""
    asked = gate(name)
    if asked is None or not asked.exists():
        return False
    asked.unlink()
    return True


class Gate(nn.Module):
    """Passes its input on; in training, as a method does, and in evaluation, as the audit does, it comes to a gate."""

    steps = 0
    evaluated = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            type(self).evaluated = True
            stop_at("audit")
            return inputs
        type(self).steps += 1
        if type(self).steps >= LATE:
            stop_at("unlearn")
        else:
            threading.Event().wait(0.005)
        if strike("memory"):
            torch.empty(10**15)  # More than any address space has.
        if strike("gpu"):
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return inputs


def network() -> nn.Module:
    model = digits.network().append(Gate())
    model.register_state_dict_pre_hook(come_to_save)
    return model


def come_to_save(*_: object) -> None:
    """Come to the gate "save" where a result is saved. Weights are read elsewhere too, before the audit evaluates the model."""
    if Gate.evaluated:
        stop_at("save")


def workload() -> Workload:
    Gate.steps, Gate.evaluated = 0, False
    if not (current_task and current_task.name == CHECK_MODEL):  # the gate is for jobs
        stop_at("load")
    return dataclasses.replace(digits.of_few_samples(), build=network)
