"""Register a workload's model, and further versions of it, with a deployment, and set its policy. Weights may come from MLflow."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import torch
from sqlalchemy.orm import Session
from torch import nn

from connectors.configuration import ConnectorsInvalid, HandOverFailed, read_connectors
from connectors.mlflow import MlflowRegistry
from connectors.storage import Storage
from expunge.errors import CannotRegister
from expunge.operator.deployment import Deployment, open_ledger
from expunge.operator.workloads import choose_device, find_faults, find_left_out, read_details
from ledger import resources
from ledger.errors import Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import check_name, register_dataset
from ledger.registry.models import CHECKPOINTS, get_model, lock_model, register_model, set_policy
from ledger.registry.references import DefaultPolicies
from ledger.registry.subjects import assign_subjects
from ledger.registry.versions import register_version
from ledger.sample_ids import sample_digest, subject_digest
from unlearning.audit.comparison import compare_with_chance
from unlearning.data.samples import SampleSet
from unlearning.data.workload import FINGERPRINTS, Workload, check_data, check_fingerprints
from unlearning.errors import UnlearningError
from unlearning.files import file_sha256
from unlearning.methods.registry import find_lacks
from unlearning.specs import (
    CHEAP_REWIND,
    DEFAULT_POLICY,
    DEFAULT_WITH_REFERENCES,
    DropAdapter,
    Method,
    Rewind,
    method_object,
    parse,
)
from unlearning.specs.suitability import NEEDS, Need
from worker.failures import WorkerError
from worker.inputs import load_model, load_workload
from worker.settings import allow_list
from worker.slices import SlicedTraining, describe_checkpoint

_MLFLOW_VERSION = re.compile(r"(?:models:/)?([^/:]+)/([1-9][0-9]*)")


def register_workload(
    deployment: Deployment,
    *,
    name: str,
    reference: str,
    weights: Path | None = None,
    dataset: str | None = None,
    policy: Sequence[str | Mapping[str, object]] | None = None,
    approve_utility_drop: float | None = None,
    dry_run: bool = True,
    accept_untrained: bool = False,
    tenant: str = "default",
    tell: Callable[[str], object] = lambda note: None,
) -> resources.Model:
    """Register the workload `reference` as the model `name`, with `weights` as version 1.

    weights: by default the newest that `expunge train` wrote for the workload. dataset: its name, by default the workload's; every
    sample of the workload is registered in it, hashed, with its subject if the workload names it. policy: methods in order, each a
    name, a JSON text or an object; by default `default_policy`. approve_utility_drop: points of merit beyond which a version
    awaits approval, by default 2.
    dry_run: whether a dry run of a job must pass. accept_untrained: whether weights may be no better than guessing.
    tell: takes the dry run's notes on what works, but less well than it could.
    Raises CannotRegister with the reason; then nothing is written.
    """
    if approve_utility_drop is not None and not 0 <= approve_utility_drop <= 100:
        raise CannotRegister(f"approve_utility_drop is {approve_utility_drop:g}; it must be 0 to 100 points of merit.")
    try:
        check_name(name, of="model")  # before the dry run, which takes its time
        chosen = [parse(method_object(method)) for method in policy or ()]
        workload = load_workload(reference, allowed=allow_list(deployment.workloads))
        path = find_weights(weights, reference)
        sha256, details = file_sha256(path), read_details(path)
        check_fingerprints(workload, details)
        methods = chosen or default_policy(workload, details)
        model = load_model(workload, path, sha256, choose_device(workload))
        check_data(workload)
        if dry_run:
            check_dry_run(workload, model, policy=methods, owned=allow_list(deployment.workloads), tell=tell)
        if not accept_untrained:
            check_trained(workload, model)
        dataset = dataset or workload.name
        checkpoints = read_checkpoints(path, details, workload.train, dataset=dataset, key=deployment.sample_key)

        def digests(*sets: SampleSet) -> Iterator[bytes]:
            return (sample_digest(deployment.sample_key, dataset, one) for samples in sets for one in samples.ids)

        with open_ledger(deployment) as session:
            owner = ensure_tenant(session, tenant)
            register_dataset(
                session,
                tenant_id=owner,
                name=dataset,
                digests=digests(workload.train, workload.held_out, workload.test),
            )
            register_subjects(session, workload, owner, dataset, key=deployment.sample_key)
            view = register_model(
                session,
                tenant_id=owner,
                name=name,
                dataset=dataset,
                workload=reference,
                training=digests(workload.train),
                weights_sha256=sha256,
                weights_path=f"{sha256}.safetensors",
                policy=[asdict(method) for method in methods],
                details=details
                | ({CHECKPOINTS: checkpoints} if checkpoints else {})
                | ({FINGERPRINTS: dict(workload.fingerprints)} if workload.fingerprints else {}),
                approve_utility_drop=approve_utility_drop,
                lacks=find_lacks(workload, model) if dry_run else None,
            )
            store_all(path, sha256, checkpoints, deployment.files)
            return view
    except (UnlearningError, WorkerError, Refused, OSError) as error:
        raise CannotRegister(str(error)) from error


def register_new_version(
    deployment: Deployment,
    *,
    name: str,
    weights: Path | None = None,
    without: Collection[str] = (),
    without_subjects: Collection[str] = (),
    accept_untrained: bool = False,
    tenant: str = "default",
) -> resources.Version:
    """Register retrained weights as a model's next version, which is not served.

    without: IDs of the workload's training set that the training left out; without_subjects: people whose samples it left out.
    accept_untrained: whether weights may be no better than guessing. Raises CannotRegister with the reason, or NobodyLeftOut if the
    training set has none of them; then nothing is written.
    """
    try:
        with open_ledger(deployment) as session:
            owner = ensure_tenant(session, tenant)
            model = get_model(session, tenant_id=owner, name=name)
            workload = load_workload(model.workload, allowed=allow_list(deployment.workloads), details=model.details)
            path = find_weights(weights, model.workload)
            sha256, details = file_sha256(path), read_details(path)
            check_fingerprints(workload, details)
            network = load_model(workload, path, sha256, choose_device(workload))
            if not accept_untrained:
                check_trained(workload, network)
            left_out = find_left_out(workload.train, without, frozenset(without_subjects))
            places = [place for place, sample in enumerate(workload.train.ids) if sample not in left_out]
            used = workload.train.take(torch.tensor(places, dtype=torch.int64))
            key = deployment.sample_key
            checkpoints = read_checkpoints(path, details, used, dataset=model.dataset, key=key)
            view = register_version(
                session,
                tenant_id=owner,
                model=name,
                training=(sample_digest(key, model.dataset, sample) for sample in used.ids),
                weights_sha256=sha256,
                weights_path=f"{sha256}.safetensors",
                by="operator",
                checkpoints=checkpoints,
                lacks=None if accept_untrained else find_lacks(workload, network),
            )
            register_subjects(session, workload, owner, model.dataset, key=deployment.sample_key)
            store_all(path, sha256, checkpoints, deployment.files)
            return view
    except (UnlearningError, WorkerError, Refused, OSError) as error:
        raise CannotRegister(str(error)) from error


def read_policy(deployment: Deployment, *, name: str, tenant: str = "default") -> tuple[Method, ...]:
    """Read the policy of the model `name`. Raises CannotRegister."""
    try:
        with open_ledger(deployment) as session:
            model = get_model(session, tenant_id=ensure_tenant(session, tenant), name=name)
            return tuple(parse(spec) for spec in model.policy)
    except (UnlearningError, Refused) as error:
        raise CannotRegister(str(error)) from error


def change_policy(
    deployment: Deployment,
    *,
    name: str,
    policy: Sequence[str | Mapping[str, object]],
    dry_run: bool = True,
    tenant: str = "default",
    tell: Callable[[str], object] = lambda note: None,
) -> tuple[Method, ...]:
    """Set the policy of the model `name`, for jobs that are opened or retried from now on, and return it.

    policy, dry_run, tell: as in `register_workload`; the dry run is of a job of the served version. Raises CannotRegister with the
    reason; then nothing is written.
    """
    try:
        methods = tuple(parse(method_object(method)) for method in policy)
        with open_ledger(deployment) as session:
            owner = ensure_tenant(session, tenant)
            model = get_model(session, tenant_id=owner, name=name)
        if dry_run:
            owned, sha256 = allow_list(deployment.workloads), model.version.weights_sha256
            workload = load_workload(model.workload, allowed=owned, details=model.details)
            weights = deployment.files.fetch(f"{sha256}.safetensors", sha256)
            network = load_model(workload, weights, sha256, choose_device(workload))
            check_dry_run(workload, network, policy=methods, owned=owned, tell=tell)
        with open_ledger(deployment) as session:
            row = lock_model(session, tenant_id=owner, name=name)
            set_policy(session, row, [asdict(method) for method in methods], by="operator")
    except (UnlearningError, WorkerError, Refused, OSError) as error:
        raise CannotRegister(str(error)) from error
    return methods


def register_subjects(session: Session, workload: Workload, tenant_id: UUID, dataset: str, *, key: bytes) -> None:
    """Tell the dataset to whom the workload's samples belong, as far as the workload knows. What was assigned before stays."""

    def rows() -> Iterator[tuple[bytes, bytes, int]]:
        for samples in (workload.train, workload.held_out, workload.test):
            for place, (subject, sample) in enumerate(zip(samples.subjects or (), samples.ids, strict=False)):
                yield subject_digest(key, subject), sample_digest(key, dataset, sample), place

    if any(samples.subjects is not None for samples in (workload.train, workload.held_out, workload.test)):
        assign_subjects(session, tenant_id=tenant_id, dataset=dataset, rows=rows())


def check_dry_run(
    workload: Workload,
    model: nn.Module,
    *,
    policy: Sequence[Method],
    owned: Collection[str],
    tell: Callable[[str], object] = lambda note: None,
) -> None:
    """Raise CannotRegister with everything that a dry run of a job finds not to work."""
    faults = find_faults(workload, model, policy=policy, owned=owned, tell=tell)
    if faults:
        raise CannotRegister(
            "\n- ".join(["A job of this model would fail:", *faults])
            + "\nThe dry run can be left out with --no-dry-run; then such a job fails when a request comes."
        )


def check_trained(workload: Workload, model: nn.Module) -> None:
    """Raise CannotRegister for weights that are no better than guessing on the training set: untrained, or of other targets."""
    found = compare_with_chance(model, workload.train, objective=workload.objective)
    merit = workload.objective.utility
    if not found.better:
        raise CannotRegister(
            f"On {found.samples:,} training samples the weights have {found.merit.value:.1f} {merit.unit} {merit.name}, and a "
            f"guess that uses no input {found.chance:.1f} {merit.unit}; the mean losses are {found.loss.value:.3g} and "
            f"{found.chance_loss:.3g}. They are untrained, or the training had other targets, or a loss that learns nothing "
            "from them. If they are meant, say --accept-untrained."
        )


def default_policy(workload: Workload, details: Mapping[str, object]) -> Sequence[Method]:
    """Return IEU and Retrain, without IEU for a stream.

    What is exact and cheap comes before them where it is possible.
    """
    policy = allowed_methods(DEFAULT_POLICY, workload)
    if details.get(CHECKPOINTS):
        policy = (CHEAP_REWIND, *policy[:-1], Rewind(), *policy[-1:])
    return policy if workload.adapters is None else (DropAdapter(), *policy)


def default_policies(workload: Workload) -> DefaultPolicies:
    """Return what a default policy ends in, without reference predictions and with them, as the ledger stores it."""
    without, with_references = (
        [asdict(method) for method in allowed_methods(policy, workload)]
        for policy in (DEFAULT_POLICY, DEFAULT_WITH_REFERENCES)
    )
    return DefaultPolicies(without=without, with_references=with_references)


def allowed_methods(policy: Sequence[Method], workload: Workload) -> Sequence[Method]:
    """Leave out the methods that a stream or a sharded model does not allow."""
    lacks = {Need.RANDOM_ACCESS: not workload.train.random_access, Need.WHOLE_MODEL: bool(workload.sharded)}
    return [method for method in policy if not any(lacks.get(need) for need in NEEDS[method.kind])]


def read_checkpoints(
    weights: Path, details: Mapping[str, Any], trained: SampleSet, *, dataset: str, key: bytes
) -> list[dict[str, str | int]]:
    """Read what `expunge train` wrote of the weights after slices of a training on `trained`, as a model's details list them.

    Raises CannotRegister if a file is missing or damaged, or the workload has no slices any more.
    """
    listed = details.get(CHECKPOINTS, ())
    if listed and trained.slices is None:
        raise CannotRegister(
            f"{weights.with_suffix('.json').name} lists weights after slices of a training, and the workload's training set has no "
            "`slices`. Give it the same as in the training, or take `checkpoints` out of the file."
        )
    for entry in listed:
        file = weights.with_name(f"{entry['sha256']}.safetensors")
        if not file.is_file() or file_sha256(file) != entry["sha256"]:
            raise CannotRegister(
                f"The weights after slice {entry['slice']}, {file.name}, are missing or damaged in {weights.parent.absolute()}. "
                f"Train again, or take `checkpoints` out of {weights.with_suffix('.json').name}; then no method goes back to them."
            )
    return [
        describe_checkpoint(
            SlicedTraining(samples=trained, dataset=dataset, key=key, fitted_to=entry.get("fitted_to")),
            int(entry["slice"]),
            entry["sha256"],
        )
        for entry in listed
    ]


def find_weights(given: Path | None, reference: str) -> Path:
    """Return the given file, or the newest of the workload. Raises CannotRegister if it is no file."""
    path = given or newest_weights(reference)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CannotRegister(
            f"The weights file {path} {what}. Name a file that `expunge train` or `save_weights` wrote."
        )
    return path


def newest_weights(reference: str, folder: Path = Path("weights")) -> Path:
    """Find the weights that `expunge train` wrote last for a workload. Raises CannotRegister if there are none."""
    candidates = [
        path
        for path in folder.glob("*.safetensors")
        if path.is_file() and read_details(path).get("workload") == reference
    ]
    if not candidates:
        raise CannotRegister(
            f"No weights of {reference!r} are in {folder.absolute()}. Train them with `expunge train {reference}`, "
            "or name a file with --weights."
        )
    return max(candidates, key=lambda path: path.stat().st_mtime)


def store_all(weights: Path, sha256: str, checkpoints: Sequence[Mapping[str, Any]], storage: Storage) -> None:
    """Copy weights, and those after slices of the same training that lie beside them, into the storage."""
    storage.put_file(weights, sha256)
    for entry in checkpoints:
        storage.put_file(weights.with_name(f"{entry['sha256']}.safetensors"), entry["sha256"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Weights from MLflow: the file, and what is needed to mark the version there as ours."""

    path: Path
    sha256: str
    registry: MlflowRegistry
    name: str
    number: str

    def claim(self) -> None:
        """Tag the version with its digest, so that the connector adopts it in place of making another. Raises CannotRegister."""
        try:
            self.registry.claim(self.name, self.number, self.sha256)
        except HandOverFailed as error:
            raise CannotRegister(f"It is registered, but its version in MLflow could not be tagged: {error}") from error


@contextmanager
def fetch_from_mlflow(place: str, *, model: str, tenant: str) -> Iterator[Fetched]:
    """Download the weights of `models:/NAME/NUMBER` by the MLflow connector that will be handed the model's versions.

    Raises CannotRegister.
    """
    named = _MLFLOW_VERSION.fullmatch(place)
    if named is None:
        raise CannotRegister(f"{place!r} is no version in MLflow; write models:/NAME/NUMBER")
    file = os.environ.get("EXPUNGE_CONNECTORS")
    try:
        given = read_connectors(Path(file) if file else None)
    except ConnectorsInvalid as error:
        raise CannotRegister(str(error)) from error
    found = [one.system for one in given if one.tenant == tenant and one.concerns(model)]
    registries = [system for system in found if isinstance(system, MlflowRegistry)]
    if len(registries) != 1:
        raise CannotRegister(
            f"EXPUNGE_CONNECTORS has {len(registries)} connectors of the kind mlflow for the model {model!r}; it must have one"
        )
    name, number = named.groups()
    with TemporaryDirectory() as folder:
        path = Path(folder, "weights.safetensors")
        try:
            digest = registries[0].fetch_weights(name, number, path)
        except HandOverFailed as error:
            raise CannotRegister(str(error)) from error
        yield Fetched(path=path, sha256=digest, registry=registries[0], name=name, number=number)
