"""Load a workload's model from a file of weights, train on one process or several, make a dry run of a job, and make its Task."""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import nn

from expunge.errors import ExpungeError, NobodyLeftOut
from report.formatting import any_of
from unlearning.data.samples import SampleSet
from unlearning.data.workload import HeldOut, Workload
from unlearning.dry_run import dry_run
from unlearning.errors import UnlearningError
from unlearning.files import file_sha256
from unlearning.specs import Method
from unlearning.state import State
from unlearning.steps import Progress
from unlearning.task import Task
from worker.failures import RankFailed, WorkerError, classify, describe, is_owners
from worker.inputs import load_model
from worker.ranks import Launch, Make, Ranks, launched, plan_launch
from worker.settings import ProcessSettings

T = TypeVar("T")


def choose_device(workload: Workload | None = None) -> torch.device:
    """Choose the GPU if CUDA finds one, else the CPU. The whole model of a workload that is `sharded` does not fit a GPU."""
    fits = workload is None or not workload.sharded
    return torch.device("cuda" if fits and torch.cuda.is_available() else "cpu")


def load_file(workload: Workload, path: Path) -> nn.Module:
    """Load the workload's model with the weights in `path`. Raises WeightsMissing or WeightsDamaged."""
    return load_model(workload, path, file_sha256(path), choose_device(workload))


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
        return plan_launch(ProcessSettings.model_validate({} if count is None else {"processes": count}))
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, each['loc'][:1]))}: {each['msg']}" for each in error.errors())
        raise kind(f"The processes cannot be started: {found}.") from None
    except WorkerError as error:
        raise kind(str(error)) from error


@contextmanager
def processes(launch: Launch | None, kind: type[ExpungeError]) -> Iterator[ThisProcess | Ranks]:
    """Give what begins steps: this process, or ranks, which end on the way out. A rank that fails is raised as `kind`."""
    if launch is None:
        yield ThisProcess()
        return
    try:
        with launched(launch) as ranks:
            yield ranks
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


def make_task(
    workload: Workload, model: nn.Module, *, forget: SampleSet, remain: SampleSet, held_out: HeldOut, seed: int
) -> Task:
    """Make a method's task, with all samples on the device that `choose_device` gives."""
    device = choose_device(workload)
    return Task(
        model=model,
        build=workload.build,
        objective=workload.objective,
        recipe=workload.training,
        forget=forget.to(device),
        remain=remain.to(device),
        guide=held_out.guide.to(device),
        criterion=held_out.criterion.to(device),
        seed=seed,
    )
