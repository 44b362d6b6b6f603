"""Studies from files: audit an unlearned model with reference models, and search a method's parameters."""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expunge.errors import CannotAudit, CannotTune, ExpungeError, explain
from expunge.operator.workloads import as_owners_error, choose_device, read_details
from unlearning.audit.attacks.findings import ReferenceFindings, audit_with_references
from unlearning.audit.attacks.study import Cost, Study, estimate_cost, make_study
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import Workload, check_fingerprints, split_held_out
from unlearning.errors import UnlearningError
from unlearning.files import file_sha256
from unlearning.specs import method_object, parse
from unlearning.specs.audit import ReferenceSpec
from unlearning.specs.references import ReferencePlan
from unlearning.specs.suitability import NEEDS, Need
from unlearning.steps import Progress, run_to_completion
from unlearning.task import Task
from unlearning.tuning import (
    SearchResult,
    Trial,
    judge_by_criterion,
    judge_by_retrained,
    retrain_without_split,
    search,
    validation_task,
)
from worker.failures import WorkerError
from worker.inputs import load_model, load_workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """What to audit.

    workload: module:factory. allowed: prefixes of modules that it may come from. original, unlearned: files of weights.
    forgotten: IDs of the forget set. earlier: IDs that were forgotten before. method: the method that was used, a name or
    JSON. folder: where finished runs are kept.
    """

    workload: str
    allowed: Sequence[str]
    original: Path
    unlearned: Path
    forgotten: Collection[str]
    earlier: Collection[str]
    method: str
    folder: Path


def audit_files(
    files: Files,
    *,
    spec: ReferenceSpec,
    seed: int,
    agree: Callable[[Cost], bool],
    show: Callable[[Progress], None] = lambda progress: None,
) -> ReferenceFindings | None:
    """Estimate the cost and run the attacks if `agree` accepts it; return None if not. Raises CannotAudit."""
    try:
        workload = load_workload(files.workload, allowed=files.allowed)
        studied, unlearned = _study(workload, files, seed=seed)
        with as_owners_error(CannotAudit, workload, owned=files.allowed):
            estimate = estimate_cost(studied, shadow_count=spec.shadows, repeat_count=spec.repeats, folder=files.folder)
        if not agree(estimate):
            return None
        steps = audit_with_references(studied, unlearned=unlearned, spec=spec, folder=files.folder)
        with as_owners_error(CannotAudit, workload, owned=files.allowed):
            return run_to_completion(steps, show)
    except (UnlearningError, WorkerError) as error:
        raise CannotAudit(str(error)) from error
    except OSError as error:
        raise CannotAudit(
            f"{explain(error)} Finished runs are kept: given again, the same command goes on from there."
        ) from error


def _study(workload: Workload, files: Files, *, seed: int) -> tuple[Study, nn.Module]:
    original, unlearned = (_load_model(workload, path, kind=CannotAudit) for path in (files.original, files.unlearned))
    forget, remain = _split(workload.train, files.forgotten, files.earlier)
    task = _make_task(workload, original, forget=forget, remain=remain, seed=seed)
    task.check()
    spec = parse(method_object(files.method))
    plan = ReferencePlan() if Need.REFERENCES in NEEDS[spec.kind] else None
    audited = split_held_out(workload.held_out).audit.to(choose_device(workload))
    return make_study(spec, task, audited, seed=seed, plan=plan), unlearned


def _load_model(workload: Workload, path: Path, *, kind: type[ExpungeError]) -> nn.Module:
    if not path.is_file():
        raise kind(f"There is no weights file {path}.")
    check_fingerprints(workload, read_details(path))
    return load_model(workload, path, file_sha256(path), choose_device(workload))


def _make_task(workload: Workload, model: nn.Module, *, forget: SampleSet, remain: SampleSet, seed: int) -> Task:
    """Make a method's task, with all samples on the device that `choose_device` gives."""
    device, held_out = choose_device(workload), split_held_out(workload.held_out)
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


def _split(train: SampleSet, forgotten: Collection[str], earlier: Collection[str]) -> tuple[SampleSet, SampleSet]:
    forgotten, earlier = set(forgotten), set(earlier)
    unknown = len(forgotten - set(train.ids))
    if unknown:
        raise CannotAudit(f"{unknown} of the {len(forgotten)} forgotten IDs are not in the workload's training set.")
    return (
        train.take(_indices(sample in forgotten for sample in train.ids)),
        train.take(_indices(sample not in forgotten and sample not in earlier for sample in train.ids)),
    )


def _indices(chosen: Generator[bool, None, None]) -> Tensor:
    return torch.tensor([index for index, is_in in enumerate(chosen) if is_in], dtype=torch.int64)


def tune(
    reference: str,
    *,
    allowed: Sequence[str],
    weights: Path,
    method: str,
    budget: int,
    share: float,
    retrained: bool,
    seed: int = 0,
    show: Callable[[Trial], None] = lambda trial: None,
) -> SearchResult:
    """Search `method`'s parameters on a forget set of `share` of the training set.

    method: a name or JSON. budget: how many specs to try. retrained: judge each result by a model retrained without the forget set
    instead of by the calibrated criterion. show: called after each trial. Raises CannotTune with the reason.
    """
    try:
        workload = load_workload(reference, allowed=allowed)
        original = _load_model(workload, weights, kind=CannotTune)
        # A task needs a forget set. One sample stands for it; the search draws its own forget sets from the remaining set.
        requested, remain = partition(workload.train, (1, len(workload.train) - 1), seed=seed)
        task = _make_task(workload, original, forget=requested, remain=remain, seed=seed)
        make = validation_task(task, size=max(1, round(share * len(remain))), seed=seed)
        given = parse(method_object(method))
        with as_owners_error(CannotTune, workload, owned=allowed):
            judge = (
                judge_by_retrained(make(), retrain_without_split(make(), seed=seed))
                if retrained
                else judge_by_criterion(make())
            )
            return run_to_completion(search(given, make, judge, budget=budget, seed=seed), show)
    except (UnlearningError, WorkerError) as error:
        raise CannotTune(str(error)) from error
