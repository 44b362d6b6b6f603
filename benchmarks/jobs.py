"""Jobs that the worker's own code runs in this process: on what they spend time, and how they end."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker
from torch import nn

from benchmarks import machine
from expunge.operator.deployment import Deployment
from expunge.operator.registration import default_policies, register_workload
from ledger.db import make_engine, make_sessions
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import get_job, list_attempts
from ledger.registry.access import ensure_tenant
from ledger.registry.models import list_versions
from ledger.registry.references import ReferenceFile, register_references
from ledger.requests.submission import Submission, submit
from ledger.sample_ids import sample_digest
from ledger.states import Phase
from migrations.commands import upgrade
from tests.fixtures.postgresql import database, embedded_server
from unlearning.data.references import References, to_bytes
from unlearning.data.workload import Workload
from unlearning.storage import save_weights
from worker.child import StopSignal
from worker.run import run_job
from worker.settings import Settings
from worker.watchdog import Board, ProgressNotes

KEY = bytes(range(32))
AUDIT = (Phase.AUDIT_MEMBERSHIP, Phase.AUDIT_RELEARN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """A finished job. seconds: processor seconds by method, then by phase. verdict: of what was published; None if nothing was."""

    seconds: Mapping[str, Mapping[str, float]]
    methods: Sequence[str]
    state: str
    reason: str | None
    verdict: str | None

    @property
    def total(self) -> float:
        """All processor seconds."""
        return sum(sum(phases.values()) for phases in self.seconds.values())

    def audit(self, method: str) -> float:
        """The processor seconds of a method's audit."""
        return sum(self.seconds[method].get(phase, 0.0) for phase in AUDIT)


@dataclass(slots=True)
class Meter(ProgressNotes):
    """Counts a job's processor seconds by method and phase: the worker tells it of every step."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    latest: tuple[str, str] | None = None
    counted: float = field(default_factory=machine.seconds)

    def advance(self, claim: Claim, phase: Phase) -> None:
        """Count the time since the last step: as relearning's where that begins, else as that of the phase before."""
        begun = (str(claim.method["kind"]), phase.value)
        self._count(begun if self.latest is None or phase is Phase.AUDIT_RELEARN else self.latest)
        self.latest = begun
        ProgressNotes.advance(self, claim, phase)

    def end(self) -> None:
        """Count what is left."""
        if self.latest is not None:
            self._count(self.latest)
        self.latest = None
        ProgressNotes.end(self)

    def _count(self, place: tuple[str, str]) -> None:
        now = machine.seconds()
        method, phase = place
        phases = self.seconds.setdefault(method, {})
        phases[phase] = phases.get(phase, 0.0) + now - self.counted
        self.counted = now


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A ledger and a storage, and the worker's code in this process."""

    where: Deployment
    sessions: sessionmaker[Session]
    folder: Path

    def erase(
        self,
        workload: Workload,
        *,
        reference: str,
        model: nn.Module,
        ids: Sequence[str],
        references: References | None,
        approve_utility_drop: float | None = None,
    ) -> tuple[Spent, tuple[Path, str] | None]:
        """Register a model with the default policy, request the erasure of samples, and run the job.

        reference: names the workload's factory. references: of the workload's training and held-out samples, in their order.
        Returns the file of the published weights and its SHA-256 too; None if nothing was published.
        """
        name = f"{workload.name}-{uuid4().hex}"
        path, _ = save_weights(model, self.folder)
        register_workload(
            self.where,
            name=name,
            reference=reference,
            weights=path,
            dataset=name,
            dry_run=False,
            accept_untrained=True,
            approve_utility_drop=approve_utility_drop,
        )
        with self.sessions.begin() as session:
            tenant_id = ensure_tenant(session, "default")
            if references is not None:
                self._add_references(session, tenant_id, name, workload, references)
            request = submit(
                session,
                Submission(
                    tenant_id=tenant_id,
                    caller="benchmark",
                    datasets=[name],
                    digests=[sample_digest(KEY, name, sample) for sample in ids],
                ),
                window=timedelta(0),
            )
        joined = request.targets[0].job
        assert joined is not None
        assert joined.id is not None
        settings = Settings.model_validate(
            {
                "database_url": SecretStr(self.where.database_url),
                "redis_url": SecretStr("redis://127.0.0.1:1/0"),
                "sample_key": SecretStr(KEY.hex()),
                "storage": self.where.storage,
                "workloads": self.where.workloads,
            }
        )
        meter = Meter(Board(), 0, settings.stall_limits)
        run_job(
            joined.id,
            sessions=self.sessions,
            settings=settings,
            worker="benchmark",
            stop_signal=StopSignal(),
            notes=meter,
        )
        with self.sessions.begin() as session:
            ended = get_job(session, tenant_id=tenant_id, job_id=joined.id)
            attempts = list_attempts(session, tenant_id=tenant_id, job_id=joined.id)
            made = [one for one in list_versions(session, tenant_id=tenant_id, model=name) if one.job_id == joined.id]
        spent = Spent(
            seconds=meter.seconds,
            methods=[str(attempt.method["kind"]) for attempt in attempts],
            state=ended.state.value,
            reason=None if ended.reason is None else ended.reason.value,
            verdict=None if ended.verdict is None else ended.verdict.value,
        )
        if not made:
            return spent, None
        sha256 = made[0].weights_sha256
        return spent, (self.where.files.fetch(f"{sha256}.safetensors", sha256), sha256)

    def _add_references(
        self, session: Session, tenant_id: UUID, name: str, workload: Workload, references: References
    ) -> None:
        pool = (*workload.train.ids, *workload.held_out.ids)
        made = dataclasses.replace(references, keys=tuple(sample_digest(KEY, name, sample) for sample in pool))
        stored, sha256 = self.where.files.put(to_bytes(made))
        file = ReferenceFile(sha256=sha256, path=stored)
        defaults = default_policies(workload)
        register_references(session, tenant_id=tenant_id, model=name, file=file, details={}, defaults=defaults)


@contextmanager
def service() -> Iterator[Service]:
    """Run PostgreSQL in a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="expunge-jobs-") as folder,
        embedded_server() as server,
        database(server) as url,
    ):
        given = url.render_as_string(hide_password=False)
        upgrade(given)
        engine = make_engine(given, pool_size=2)  # one connection for the job, one for its lease
        where = Deployment(
            database_url=given, storage=Path(folder) / "storage", sample_key=KEY, workloads="benchmarks,examples"
        )
        yield Service(where=where, sessions=make_sessions(engine), folder=Path(folder))
        engine.dispose()
