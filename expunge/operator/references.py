"""Prepare a registered model's reference predictions, and register them with a deployment."""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from expunge.errors import CannotPrepare
from expunge.operator.deployment import Deployment, open_ledger
from expunge.operator.workloads import as_owners_error, choose_device
from ledger.errors import Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.models import get_model
from ledger.registry.references import ReferenceFile, list_erased, register_references
from ledger.sample_ids import sample_digest
from unlearning.audit.reference_test import ReferenceSignals, power_by_size, samples_needed, signals_by_reference
from unlearning.data.references import References, to_bytes
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload, split_held_out
from unlearning.errors import UnlearningError
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.specs.references import ReferencePlan
from unlearning.task import Progress, run_to_completion
from unlearning.training.loop import on_base_of
from unlearning.training.references import (
    PreparationCost,
    estimate_cost,
    preparation_folder,
    prepare_references,
    sample_signals,
)
from worker.failures import WorkerError
from worker.inputs import load_model, load_workload
from worker.settings import allow_list


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Registered reference predictions. path: their name in the storage. samples: rows. seconds: what this run took."""

    path: str
    samples: int
    seconds: float


def prepare_model(
    deployment: Deployment,
    *,
    name: str,
    plan: ReferencePlan,
    seed: int = 0,
    prepared: Path | None = None,
    tenant: str = "default",
    agree: Callable[[PreparationCost], bool] = lambda cost: True,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Prepared | None:
    """Train the reference models of the model `name`, keep their predictions in the storage, and register them.

    prepared: the folder of `expunge train --references`; what was trained there is not trained again, and is deleted at the end.
    Nothing else in the folder is touched.
    agree: decides on the estimated cost before anything is trained; None is returned if it declines. An interrupted preparation
    goes on from its last finished model. Samples that the model has unlearned are left out. Raises CannotPrepare with the reason,
    and OSError if the storage cannot be written.
    """
    try:
        with open_ledger(deployment) as session:
            owner = ensure_tenant(session, tenant)
            model = get_model(session, tenant_id=owner, name=name)
            erased = list_erased(session, tenant_id=owner, model=name)
        allowed = allow_list(deployment.workloads)
        workload = load_workload(model.workload, allowed=allowed)

        def key(sample: str) -> bytes:
            return sample_digest(deployment.sample_key, model.dataset, sample)

        workload = without_samples(workload, erased=erased, key=key)
        served_sha256, device = model.version.weights_sha256, choose_device()
        weights = deployment.files.fetch(f"{served_sha256}.safetensors", served_sha256)
        served = load_model(workload, weights, served_sha256, torch.device("cpu"))
        workload = on_base_of(workload, served)
        own = deployment.files.work_folder / "references" / str(model.id)
        folder = prepared or own
        with as_owners_error(CannotPrepare, workload, owned=allowed):
            cost = estimate_cost(workload, plan, seed=seed, folder=folder, device=device)
        if not agree(cost):
            return None
        steps = prepare_references(workload, plan, seed=seed, folder=folder, key=key, device=device)
        with as_owners_error(CannotPrepare, workload, owned=allowed):
            references: References = run_to_completion(steps, show)
        thresholds = AuditSpec().thresholds
        power = measure_power(served, workload, references, key=key, thresholds=thresholds)
        stored, sha256 = deployment.files.put(to_bytes(references))
        with open_ledger(deployment) as session:
            register_references(
                session,
                tenant_id=owner,
                model=name,
                file=ReferenceFile(sha256=sha256, path=stored),
                details={
                    **references.details,
                    "power_by_size": power,
                    "samples_needed": samples_needed(power, thresholds),
                },
            )
        # Only now: a full disk at the last moment must not cost the trainings. `prepared` is the operator's own folder.
        for done in (preparation_folder(workload, plan, seed=seed, folder=folder), own):
            shutil.rmtree(done, ignore_errors=True)
    except (UnlearningError, WorkerError, Refused) as error:
        raise CannotPrepare(str(error)) from error
    return Prepared(path=stored, samples=len(references), seconds=float(references.details["seconds"]))


def measure_power(
    model: nn.Module,
    workload: Workload,
    references: References,
    *,
    key: Callable[[str], bytes],
    thresholds: Thresholds,
) -> dict[int, float]:
    """Compute the power of an audit's reference test on the served model, by the number of forgotten samples."""

    def signals(samples: SampleSet) -> ReferenceSignals:
        signal, _, _ = sample_signals(model, samples, workload.objective)
        return signals_by_reference(signal.double().numpy(), references.take([key(sample) for sample in samples.ids]))

    return power_by_size(
        held_out=signals(split_held_out(workload.held_out).audit),
        remain=signals(workload.train),
        thresholds=thresholds,
    )


def without_samples(workload: Workload, *, erased: Collection[bytes], key: Callable[[str], bytes]) -> Workload:
    """Leave samples out of a workload's training set. Raises InvalidWorkload if none is left."""
    kept = [place for place, sample in enumerate(workload.train.ids) if key(sample) not in erased]
    return replace(workload, train=workload.train.take(torch.tensor(kept, dtype=torch.int64)))
