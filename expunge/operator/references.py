"""Prepare a registered model's reference predictions, and register them with a deployment."""

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from torch import nn

from expunge.errors import CannotPrepare, ExpungeError, explain
from expunge.operator.deployment import Deployment, open_database, open_ledger
from expunge.operator.registration import default_policies
from expunge.operator.workloads import as_owners_error, choose_device, processes, without_samples
from ledger.errors import ErasedMeanwhile, ModelBusy, Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.models import check_idle, find_model, get_model, reserve_model
from ledger.registry.references import DefaultPolicies, list_erased, register_references
from ledger.registry.retention import needed_files
from ledger.sample_ids import sample_digest
from unlearning.audit.reference_test import ReferenceSignals, power_by_size, samples_needed, signals_by_reference
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload, split_held_out
from unlearning.errors import UnlearningError
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.specs.references import ReferencePlan
from unlearning.state import State
from unlearning.steps import Progress, run_to_completion
from unlearning.training.loop import on_base_of
from unlearning.training.references import (
    PreparationCost,
    estimate_cost,
    preparation_folder,
    prepare_references,
    sample_signals,
    train_reference_models,
)
from worker.failures import WorkerError
from worker.inputs import load_model, load_workload, write_references
from worker.launch import Launch
from worker.settings import allow_list

IDLE_POLL_SECONDS = 2.0
"""How long a preparation waits before it checks again whether a job still holds the model."""

POLLS = 15
"""How often it checks in one transaction, so that none is open for days."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceTraining:
    """What a process needs to train reference models.

    left_out: samples of the training set. weights: of the model that they are references of, whose frozen part they share.
    """

    reference: str
    allowed: Sequence[str]
    left_out: frozenset[str]
    weights: Path
    sha256: str
    plan: ReferencePlan
    seed: int
    folder: Path

    def load(self) -> Workload:
        """Load the workload. Raises WorkerError and UnlearningError."""
        workload = load_workload(self.reference, allowed=self.allowed)
        model = load_model(workload, self.weights, self.sha256, torch.device("cpu"))
        return on_base_of(replace(workload, train=without_samples(workload.train, self.left_out)), model)


def reference_steps(
    order: ReferenceTraining,
    device: torch.device,
    state: State,
    *,
    kind: type[ExpungeError],
    workload: Workload | None = None,
) -> Generator[Progress, None, None]:
    """Train the models that are missing in the folder. workload: `order.load()`, if this process has it. Raises `kind`."""
    try:
        seen = workload or order.load()
        with as_owners_error(kind, seen, owned=order.allowed):
            yield from train_reference_models(seen, order.plan, seed=order.seed, folder=order.folder, device=device)
    except (UnlearningError, WorkerError) as error:
        raise kind(str(error)) from error


def cost_steps(
    order: ReferenceTraining, device: torch.device, state: State, *, workload: Workload | None = None
) -> Generator[Progress, None, PreparationCost]:
    """Estimate what `reference_steps` will cost; there is no step to show. Raises CannotPrepare."""
    try:
        seen = workload or order.load()
        with as_owners_error(CannotPrepare, seen, owned=order.allowed):
            return estimate_cost(seen, order.plan, seed=order.seed, folder=order.folder, device=device)
    except (UnlearningError, WorkerError) as error:
        raise CannotPrepare(str(error)) from error
    yield  # is never reached, and makes this a generator, which is what ranks begin


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Registered reference predictions.

    path: their name in the storage. samples: rows. seconds: what this run took. decide: whether there are held-out samples enough
    for the reference test.
    """

    path: str
    samples: int
    seconds: float
    decide: bool


def prepare_model(
    deployment: Deployment,
    *,
    name: str,
    plan: ReferencePlan,
    seed: int = 0,
    prepared: Path | None = None,
    tenant: str = "default",
    launch: Launch | None = None,
    agree: Callable[[PreparationCost], bool] = lambda cost: True,
    show: Callable[[Progress], None] = lambda progress: None,
    tell: Callable[[str], object] = lambda why: None,
) -> Prepared | None:
    """Train the reference models of the model `name`, keep their predictions in the storage, and register them.

    prepared: the folder of `expunge train --references`; what was trained there is not trained again, and is deleted at the end.
    Nothing else in the folder is touched. launch: how several processes are started that train; None to train in this one.
    agree: decides on the estimated cost before anything is trained; None is returned if it declines. An interrupted preparation
    goes on from its last finished model. Samples that the model has unlearned are left out, also those of jobs that end meanwhile.
    tell: called with the reason if the registration has to wait for a job that holds the model.
    Raises CannotPrepare with the reason, also if the storage cannot be written to, which is tried before anything is trained.
    """
    try:
        with open_ledger(deployment) as session:
            owner = ensure_tenant(session, tenant)
            model = get_model(session, tenant_id=owner, name=name)
            erased = list_erased(session, tenant_id=owner, model=name)
        allowed = allow_list(deployment.workloads)
        workload = load_workload(model.workload, allowed=allowed, details=model.details)

        def key(sample: str) -> bytes:
            return sample_digest(deployment.sample_key, model.dataset, sample)

        left_out = frozenset(sample for sample in workload.train.ids if key(sample) in erased)
        deployment.files.check()
        served_sha256 = model.version.weights_sha256
        weights = deployment.files.fetch(f"{served_sha256}.safetensors", served_sha256)
        served = load_model(workload, weights, served_sha256, torch.device("cpu"))
        workload = on_base_of(replace(workload, train=without_samples(workload.train, left_out)), served)
        own = deployment.files.work_folder / "references" / str(model.id)
        folder = prepared or own
        order = ReferenceTraining(
            reference=model.workload,
            allowed=allowed,
            left_out=left_out,
            weights=weights,
            sha256=served_sha256,
            plan=plan,
            seed=seed,
            folder=folder,
        )
        here = workload if launch is None else None
        with processes(launch, CannotPrepare) as where:
            cost = run_to_completion(where.begin(partial(cost_steps, order, workload=here), expected=CannotPrepare))
            if not agree(cost):
                return None
            started = time.monotonic()
            make = partial(reference_steps, order, kind=CannotPrepare, workload=here)
            run_to_completion(where.begin(make, expected=CannotPrepare), show)
        device = torch.device("cpu") if launch else choose_device(workload)
        collecting = prepare_references(workload, plan, seed=seed, folder=folder, key=key, device=device)
        references = run_to_completion(collecting)  # of the models that are finished now
        seconds = round(time.monotonic() - started, 3)
        references = replace(references, details={**references.details, "seconds": seconds})
        thresholds = AuditSpec().thresholds
        power = measure_power(served, workload, references, key=key, thresholds=thresholds)
        details = {**references.details, "power_by_size": power, "samples_needed": samples_needed(power, thresholds)}
        stored, rows = register_when_idle(
            deployment,
            references,
            tenant_id=owner,
            model=name,
            details=details,
            defaults=default_policies(workload),
            tell=tell,
        )
        # Only now: a full disk at the last moment must not cost the trainings. `prepared` is the operator's own folder.
        for done in (preparation_folder(workload, plan, seed=seed, folder=folder), own):
            shutil.rmtree(done, ignore_errors=True)
    except (UnlearningError, WorkerError, Refused) as error:
        raise CannotPrepare(str(error)) from error
    except OSError as error:
        raise CannotPrepare(
            f"{explain(error)} Reference models that are finished are kept: given again, the same command trains the others."
        ) from error
    return Prepared(path=stored, samples=rows, seconds=seconds, decide=bool(power))


def register_when_idle(
    deployment: Deployment,
    references: References,
    *,
    tenant_id: UUID,
    model: str,
    details: Mapping[str, Any],
    defaults: DefaultPolicies,
    tell: Callable[[str], object],
) -> tuple[str, int]:
    """Store and register the predictions without rows of samples that were erased meanwhile; return the file's name and its rows.

    It waits while a job holds the model, which may erase more, and `tell` is called with the reason. Meanwhile no other job of the
    model is claimed. The file is written once the model is idle: a file that nothing names for long is deleted by the purge.
    """
    reason = ""
    with open_database(deployment.database_url) as sessions:
        while True:
            with sessions.begin() as session:
                row = find_model(session, tenant_id=tenant_id, name=model)
                reserve_model(session, row.id)
                for _ in range(POLLS):
                    try:
                        check_idle(session, row)
                        break
                    except ModelBusy as busy:
                        if str(busy) != reason:
                            reason = str(busy)
                            tell(f"{reason}. The references are registered then.")
                        time.sleep(IDLE_POLL_SECONDS)
                else:
                    continue
                left_out = list_erased(session, tenant_id=tenant_id, model=model)
                kept = references.without({*left_out})
                file = write_references(kept, deployment.files)
                try:
                    with open_ledger(deployment) as ledger:
                        register_references(
                            ledger,
                            tenant_id=tenant_id,
                            model=model,
                            file=file,
                            details=details,
                            defaults=defaults,
                            erased=left_out,
                        )
                except (ErasedMeanwhile, ModelBusy):  # by a worker of a release that knows no reservation
                    if file.path not in needed_files(session):
                        deployment.files.delete(file.path)
                else:
                    return file.path, len(kept)


def measure_power(
    model: nn.Module,
    workload: Workload,
    references: References,
    *,
    key: Callable[[str], bytes],
    thresholds: Thresholds,
) -> dict[int, float]:
    """Compute the power of an audit's reference test on the served model, by the number of forgotten samples; empty without one."""

    def signals(samples: SampleSet) -> ReferenceSignals:
        signal, _, _ = sample_signals(model, samples, workload.objective)
        rows = references.take([key(sample) for sample in samples.ids])
        return signals_by_reference(signal.double().numpy(), rows, subjects=samples.subjects)

    return power_by_size(
        held_out=signals(split_held_out(workload.held_out).audit),
        remain=signals(workload.train),
        thresholds=thresholds,
    )
