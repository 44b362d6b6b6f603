"""What commands do with a workload: train on one process or several, leave samples out, make a dry run, read the note beside its
weights, show its own errors.
"""

import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import nn

from expunge.errors import ExpungeError, NobodyLeftOut, StackError
from report.formatting import any_of
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.dry_run import dry_run
from unlearning.errors import UnlearningError
from unlearning.specs import Method
from unlearning.state import State
from unlearning.steps import Progress
from worker.failures import RankFailed, WorkerError, classify, describe, is_owners
from worker.launch import Launch, Make, Ranks, launched, plan_launch
from worker.settings import ProcessSettings
from worker.settings import choose_device as device_name

T = TypeVar("T")


def choose_device(workload: Workload | None = None) -> torch.device:
    """Choose the device as EXPUNGE_DEVICE says. The whole model of a workload that is `sharded` does not fit a GPU.

    Raises NoGpu, and StackError for a malformed setting.
    """
    if workload is not None and workload.sharded:
        return torch.device("cpu")
    return torch.device(device_name(read_process_settings().device, gpu=torch.cuda.is_available()))


def read_process_settings(**given: str) -> ProcessSettings:
    """Read on which device and how many processes a command computes: what is given, else the environment. Raises StackError."""
    try:
        return ProcessSettings.model_validate(given)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, each['loc'][:1]))}: {each['msg']}" for each in error.errors())
        raise StackError(f"Where to compute is set wrongly: {found}.") from None


def without_samples(train: SampleSet, left_out: Collection[str]) -> SampleSet:
    """Leave samples out of a training set."""
    kept = [place for place, sample in enumerate(train.ids) if sample not in left_out]
    return train.take(torch.tensor(kept, dtype=torch.int64))


@dataclass(slots=True, eq=False)
class ThisProcess:
    """Begins here what `Ranks` begin on several processes. state: of the steps that were begun last."""

    state: State = field(default_factory=State)

    def begin(
        self, make: Make[T], *, resumed: Mapping[str, Any] = MappingProxyType({}), expected: type[Exception]
    ) -> Generator[Progress, None, T]:
        """Begin steps."""
        self.state = State(resumed)
        return make(choose_device(), self.state)


def plan_processes(count: str | None, kind: type[ExpungeError]) -> Launch | None:
    """Return how processes are started that train together; None for this one alone.

    count: of this host, or "auto"; by default as the environment says, which also names other hosts. Raises `kind`.
    """
    try:
        return plan_launch(read_process_settings(**({} if count is None else {"processes": count})))
    except (StackError, WorkerError) as error:
        raise kind(str(error)) from error


@contextmanager
def processes(launch: Launch | None, kind: type[ExpungeError]) -> Iterator[ThisProcess | Ranks]:
    """Give what begins steps: this process, or ranks, which end on the way out. Raises as `kind` that one fails, or lacks a GPU."""
    try:
        with nullcontext(ThisProcess()) if launch is None else launched(launch) as where:
            yield where
    except WorkerError as error:
        raise kind(error.failure.detail if isinstance(error, RankFailed) else str(error)) from error


def find_left_out(train: SampleSet, without: Collection[str], people: Collection[str] = ()) -> frozenset[str]:
    """Return the IDs of the training set that are in `without` or belong to one of `people`.

    Some may be missing: whoever erases a person may delete the data first. Raises NobodyLeftOut if there are some to leave out and
    the training set has none of them, or if it does not name its subjects and people are to be left out.
    """
    if people and train.subjects is None:
        raise NobodyLeftOut(
            "The workload does not name the subjects of its samples, so nobody can be left out by name. Leave out their samples: "
            "`expunge do-not-train --ids` lists those of people too."
        )
    theirs = (sample for sample, subject in zip(train.ids, train.subjects or (), strict=False) if subject in people)
    found = frozenset(without) & frozenset(train.ids) | frozenset(theirs)
    if people and not found:
        raise NobodyLeftOut(
            f"The workload's training set has no sample of {any_of(len(people), 'person', 'people')} to leave out."
        )
    if without and not found:
        raise NobodyLeftOut(
            f"The workload's training set does not have {any_of(len(without), 'sample ID')} to leave out; "
            "write them as its factory does, one a line."
        )
    return found


@contextmanager
def as_owners_error(kind: type[ExpungeError], workload: Workload, *, owned: Collection[str]) -> Iterator[None]:
    """Raise as `kind`, with its message, what the owner's own code raises: the model, the data or the training function."""
    try:
        yield
    except (UnlearningError, WorkerError, ExpungeError):
        raise
    except Exception as error:
        if not is_owners(error, owned):
            raise
        raise kind(
            f"The workload's own code raised {describe(error, owned=owned, ids=workload.private_ids)}"
        ) from error


def find_faults(
    workload: Workload,
    model: nn.Module,
    *,
    policy: Sequence[Method],
    owned: Collection[str],
    tell: Callable[[str], object] = lambda note: None,
) -> list[str]:
    """Make a dry run of a job of a model; return a few sentences for each thing that will not work, with what to do.

    owned: prefixes of the modules of the workload's owner, whose messages are shown in full. tell: takes notes on what works, but
    less well than it could.
    """
    faults: list[str] = []
    for fault in dry_run(workload, model, policy=policy):
        detail = classify(fault.error, owned=owned, ids=workload.private_ids).detail
        (tell if fault.only_note else faults.append)(f"{fault.step}: {detail} {fault.advice}".strip())
    return faults


def read_details(weights: Path) -> dict[str, object]:
    """Read the JSON that `expunge train` wrote beside the weights; empty if there is no such file, or one of something else."""
    try:
        found = json.loads(weights.with_suffix(".json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("workload"), str) else {}
