"""The database for one command: opened, used in transactions, closed."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from expunge.errors import CannotRegister, StackError
from expunge.stack.folder import Folder, recall, sample_key
from ledger.db import make_engine, make_sessions
from ledger.errors import Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.models import ModelView, VersionView, get_model, register_model
from ledger.registry.versions import register_version
from ledger.sample_ids import parse_sample_key, sample_digest
from unlearning.data.samples import SampleSet
from unlearning.errors import UnlearningError
from unlearning.specs import DEFAULT_POLICY, parse
from unlearning.storage import file_sha256, load_weights
from worker.errors import WorkerError
from worker.inputs import load_workload
from worker.settings import allow_list


@contextmanager
def opened(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Give sessions on the database; every connection is closed at the end."""
    engine = make_engine(database_url, pool_size=1)
    try:
        yield make_sessions(engine)
    finally:
        engine.dispose()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where registrations go: a stack's database, its folder of weights, its key for sample IDs, its allow-list."""

    database_url: str = field(repr=False)
    storage: Path
    sample_key: bytes = field(repr=False)
    workloads: str


def place(data_dir: Path) -> Place:
    """Find the place: the environment's, else the stack that runs on this data folder. Raises StackError."""
    running = recall(data_dir)
    folder = Folder(data_dir)
    database_url = os.environ.get("DATABASE_URL") or (running.database_url if running else None)
    storage = os.environ.get("EXPUNGE_STORAGE") or (running.storage if running else None)
    key = os.environ.get("EXPUNGE_SAMPLE_KEY") or (sample_key(folder) if running else None)
    if database_url is None or storage is None or key is None:
        raise StackError(
            f"No stack runs on {folder.root}. Start one with `expunge up`, give its --data-dir, or set DATABASE_URL, "
            "EXPUNGE_STORAGE and EXPUNGE_SAMPLE_KEY."
        )
    workloads = os.environ.get("EXPUNGE_WORKLOADS") or (running.workloads if running else "examples")
    try:
        key_bytes = parse_sample_key(key)
    except ValueError as error:
        raise StackError(f"EXPUNGE_SAMPLE_KEY {error}.") from None
    return Place(database_url=database_url, storage=Path(storage), sample_key=key_bytes, workloads=workloads)


def register_workload(
    where: Place,
    *,
    name: str,
    reference: str,
    weights: Path | None = None,
    dataset: str | None = None,
    policy: Sequence[str | Mapping[str, object]] | None = None,
    tenant: str = "default",
) -> ModelView:
    """Register a model that is the workload `reference`, with `weights` as its version 1.

    dataset: its name, by default the workload's; it holds every sample of the workload, hashed. policy: methods in
    order, each a name, a JSON text or an object; by default LTU, IEU, Retrain. Raises CannotRegister with the reason;
    nothing is written then.
    """
    try:
        methods = [asdict(parse(method_object(method))) for method in policy or []] or list(map(asdict, DEFAULT_POLICY))
        workload = load_workload(reference, allowed=allow_list(where.workloads))
        path = weights or newest_weights(reference)
        sha256 = file_sha256(path)
        load_weights(workload.build(), path, sha256)
        dataset = dataset or workload.name

        def digests(samples: SampleSet) -> list[bytes]:
            return [sample_digest(where.sample_key, dataset, sample) for sample in samples.ids]

        training = digests(workload.train)
        with opened(where.database_url) as sessions, sessions.begin() as session:
            owner = ensure_tenant(session, tenant)
            register_dataset(
                session,
                tenant_id=owner,
                name=dataset,
                digests=[*training, *digests(workload.held_out), *digests(workload.test)],
            )
            view = register_model(
                session,
                tenant_id=owner,
                name=name,
                dataset=dataset,
                workload=reference,
                training=training,
                weights_sha256=sha256,
                weights_path=f"{sha256}.safetensors",
                policy=methods,
                details=read_details(path),
            )
            store(path, where.storage / f"{sha256}.safetensors")
            return view
    except (UnlearningError, WorkerError, Refused, OSError) as error:
        raise CannotRegister(str(error)) from error


def register_trained(
    where: Place,
    *,
    name: str,
    weights: Path | None = None,
    without: Collection[str] = (),
    tenant: str = "default",
) -> VersionView:
    """Register weights that were trained anew on a model's workload as its next version.

    without: IDs of the workload's training set that the training left out. Raises CannotRegister with the reason; nothing is
    written then.
    """
    try:
        with opened(where.database_url) as sessions, sessions.begin() as session:
            owner = ensure_tenant(session, tenant)
            model = get_model(session, tenant_id=owner, name=name)
            workload = load_workload(model.workload, allowed=allow_list(where.workloads))
            path = weights or newest_weights(model.workload)
            sha256 = file_sha256(path)
            load_weights(workload.build(), path, sha256)
            used = (sample for sample in workload.train.ids if sample not in without)
            view = register_version(
                session,
                tenant_id=owner,
                model=name,
                training=(sample_digest(where.sample_key, model.dataset, sample) for sample in used),
                weights_sha256=sha256,
                weights_path=f"{sha256}.safetensors",
                by="operator",
            )
            store(path, where.storage / f"{sha256}.safetensors")
            return view
    except (UnlearningError, WorkerError, Refused, OSError) as error:
        raise CannotRegister(str(error)) from error


def method_object(method: str | Mapping[str, object]) -> Mapping[str, object]:
    """Read a method's name or JSON text as the object that describes it."""
    if not isinstance(method, str):
        return method
    if not method.startswith("{"):
        return {"kind": method}
    try:
        return dict(json.loads(method))
    except ValueError as error:
        raise CannotRegister(f"The method {method!r} is not JSON: {error}") from error


def newest_weights(reference: str, folder: Path = Path("weights")) -> Path:
    """Find what `expunge train` last wrote for a workload. Raises CannotRegister where there is nothing."""
    of_workload = [
        path.with_suffix(".safetensors")
        for path in folder.glob("*.json")
        if json.loads(path.read_text()).get("workload") == reference
    ]
    if not of_workload:
        raise CannotRegister(
            f"No weights of {reference!r} are in {folder.absolute()}. Train them with `expunge train {reference}`, "
            "or name a file with --weights."
        )
    return max(of_workload, key=lambda path: path.stat().st_mtime)


def read_details(weights: Path) -> dict[str, object]:
    """Read what lies beside the weights about their training; nothing where nothing does."""
    beside = weights.with_suffix(".json")
    return dict(json.loads(beside.read_text())) if beside.exists() else {}


def store(source: Path, target: Path) -> None:
    """Copy weights into the storage, whole or not at all. What is there under the same digest is the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".writing-", delete=False) as new:
        try:
            with source.open("rb") as file:
                shutil.copyfileobj(file, new)
            new.flush()
            os.fsync(new.fileno())
            os.replace(new.name, target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
