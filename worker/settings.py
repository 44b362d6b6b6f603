"""Settings of the worker and the beat, from the environment."""

from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Ge
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from connectors.settings import FROM_ENVIRONMENT, SharedSettings, StorageLocation, open_storage
from connectors.storage import Storage
from ledger.db import IDLE_LIMIT
from ledger.jobs.attempts import RetryRule
from ledger.states import Phase
from worker.failures import NoGpu

Network = IPv4Network | IPv6Network


class Device(StrEnum):
    """Where the operator wants a process to compute."""

    AUTO = "auto"  # the GPU if there is one, else the CPU
    CUDA = "cuda"  # the GPU, or no result
    CPU = "cpu"


def choose_device(wanted: Device, *, gpu: bool) -> str:
    """Return PyTorch's name of the device; `gpu`: whether CUDA finds one.

    Raises NoGpu if a GPU is wanted and there is none: on the CPU a job may take days, and nobody would know why.
    """
    if wanted is Device.CUDA and not gpu:
        raise NoGpu("EXPUNGE_DEVICE is cuda, and CUDA finds no GPU. Run nvidia-smi on the machine that computes.")
    return "cuda" if gpu and wanted is not Device.CPU else "cpu"


class ProcessSettings(BaseSettings):
    """Where a job computes and on how many processes, for the worker and for the operator's commands that train."""

    model_config = FROM_ENVIRONMENT

    device: Device = Field(
        default=Device.AUTO,
        validation_alias="EXPUNGE_DEVICE",
        description="`auto` takes the GPU if there is one, `cpu` never does. "
        "With `cuda` a job fails with `gpu_lost` if CUDA finds no GPU. Commands that train or register follow it too.",
    )
    processes: Annotated[int, Ge(1)] | Literal["auto"] = Field(
        default=1,
        validation_alias="EXPUNGE_PROCESSES",
        description="How many processes of this host run a job, or a command that trains, together, each on a GPU of its own or on "
        "a part of the cores. `auto` takes one for each GPU.",
    )
    hosts: int = Field(
        default=1,
        ge=1,
        validation_alias="EXPUNGE_HOSTS",
        description="How many hosts run a job together, this one included. The others run `worker.rank` by torchrun.",
    )
    rendezvous: str = Field(
        default="",
        validation_alias="EXPUNGE_RENDEZVOUS",
        description="With several hosts: this one's address and a free port, at which the others find it, as `10.0.0.5:29500`.",
    )

    @model_validator(mode="after")
    def _check_rendezvous(self) -> Self:
        address, port = self.rendezvous_address
        if self.hosts > 1 and not (address and port.isdigit()):
            raise ValueError(
                "EXPUNGE_RENDEZVOUS must be an address and a port, such as 10.0.0.5:29500, with several hosts"
            )
        return self

    @property
    def rendezvous_address(self) -> tuple[str, str]:
        """The address and the port of the rendezvous of several hosts."""
        address, _, port = self.rendezvous.rpartition(":")
        return address, port


class Settings(ProcessSettings, SharedSettings):
    """The settings. A missing or malformed variable stops the start, with its name in the error."""

    storage: StorageLocation = Field(validation_alias="EXPUNGE_STORAGE")  # without one it does not start
    sheet_days: float = Field(
        default=0,
        ge=0,
        le=366,
        validation_alias="EXPUNGE_SHEET_DAYS",
        description="For how many days the worker keeps an operator's sheet of each job: pictures or texts that the model "
        "generates before and after, for `expunge sheet`. They may show or name people who asked to be erased. 0 keeps none.",
    )
    signing_keys: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_SIGNING_KEYS",
        description="The folder of private signing keys. Without it results are not signed.",
    )
    model_signing_key: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_MODEL_SIGNING_KEY",
        description="A private key on P-256 (PEM) that signs the weights of published versions for other tools "
        "([OpenSSF model signing](integrations/model-signing.md)). Without it they are not signed so.",
    )
    workloads: str = Field(
        default="examples",
        validation_alias="EXPUNGE_WORKLOADS",
        description="Prefixes of the modules from which workloads may come, separated by commas.",
    )
    statement_seconds: float = Field(
        default=300,
        gt=0,
        validation_alias="EXPUNGE_WORKER_STATEMENT_SECONDS",
        description="How long a statement of a worker or the beat may take before it is given up and tried again. An open "
        f"transaction may wait {IDLE_LIMIT:g} seconds at most. Statements over all samples of a job may take half an hour.",
    )
    lease_seconds: float = Field(
        default=45,
        gt=0,
        validation_alias="EXPUNGE_LEASE_SECONDS",
        description="How long a claim lasts without renewal. "
        "With a sweep each minute a dead worker's job continues within two minutes.",
    )
    max_attempts: int = Field(
        default=6,
        ge=1,
        validation_alias="EXPUNGE_MAX_ATTEMPTS",
        description="How many attempts of one method may be lost, without getting further, before the job fails. "
        "An error that would come again is not tried again.",
    )
    retry_seconds: float = Field(
        default=30,
        ge=0,
        validation_alias="EXPUNGE_RETRY_SECONDS",
        description="How long a job waits before its first retry after a failure that may pass. Each further wait is four times as "
        "long, up to 15 minutes, until the job gets further.",
    )
    stall_load_seconds: float = Field(
        default=3600,
        gt=0,
        validation_alias="EXPUNGE_STALL_LOAD_SECONDS",
        description="How long loading the workload and the weights may take. Then the worker's process is ended, and the job is "
        "tried once more.",
    )
    stall_unlearn_seconds: float = Field(
        default=3600,
        gt=0,
        validation_alias="EXPUNGE_STALL_UNLEARN_SECONDS",
        description="The same for the time between two steps of a method, its set-up included.",
    )
    stall_audit_seconds: float = Field(
        default=3600,
        gt=0,
        validation_alias="EXPUNGE_STALL_AUDIT_SECONDS",
        description="The same for the time between two steps of an audit. One is a pass over all sets.",
    )
    stall_publish_seconds: float = Field(
        default=3600,
        gt=0,
        validation_alias="EXPUNGE_STALL_PUBLISH_SECONDS",
        description="The same for each file of a result, which is uploaded and read back, and for the publication.",
    )
    cancel_seconds: float = Field(
        default=60,
        gt=0,
        validation_alias="EXPUNGE_CANCEL_SECONDS",
        description="How long a job may take to its next step after it was cancelled. Then the worker's process is ended.",
    )
    checkpoint_seconds: float = Field(
        default=30,
        ge=0,
        validation_alias="EXPUNGE_CHECKPOINT_SECONDS",
        description="How long a method runs between two training checkpoints, "
        "and so how much work a crash costs. 0: at every step.",
    )
    sweep_seconds: float = Field(
        default=60,
        gt=0,
        validation_alias="EXPUNGE_SWEEP_SECONDS",
        description="How often the beat sweeps, and a worker signs the log and cleans up.",
    )
    webhook_networks: str = Field(
        default="",
        validation_alias="EXPUNGE_WEBHOOK_NETWORKS",
        description="Networks that webhooks may reach although they are not public, "
        "also over plain http, as `10.1.0.0/16,fd00::/8`.",
    )
    ready_file: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_READY_FILE",
        description="A file that the process creates once it is ready.",
    )

    @field_validator("webhook_networks")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        try:
            _networks(value)
        except ValueError:
            raise ValueError("must be networks such as 10.1.0.0/16, separated by commas") from None
        return value

    @property
    def files(self) -> Storage:
        """The storage of weights, reference predictions and training checkpoints."""
        return open_storage(self.storage, cache=self.storage_cache)

    @property
    def lease(self) -> timedelta:
        """How long a claim lasts without renewal."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def stall_limits(self) -> dict[Phase, float]:
        """Seconds that each phase of a job may go on without progress."""
        return {
            Phase.LOAD: self.stall_load_seconds,
            Phase.UNLEARN: self.stall_unlearn_seconds,
            Phase.AUDIT_MEMBERSHIP: self.stall_audit_seconds,
            Phase.AUDIT_RELEARN: self.stall_audit_seconds,
            Phase.REPORT: self.stall_publish_seconds,
            Phase.PUBLISH: self.stall_publish_seconds,
        }

    @property
    def retry_rule(self) -> RetryRule:
        """How often a job is tried again, and after which wait."""
        return RetryRule(max_tries=self.max_attempts, first_wait=timedelta(seconds=self.retry_seconds))

    @property
    def reachable(self) -> tuple[Network, ...]:
        """Networks that webhooks may reach although they are not public."""
        return _networks(self.webhook_networks)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Prefixes of the modules from which workloads may come."""
        return allow_list(self.workloads)


def read_settings() -> Settings:
    """Read the environment. Raises pydantic's ValidationError, which names what is missing or malformed."""
    return Settings()  # type: ignore[call-arg]  # the environment gives the fields


def allow_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of module prefixes."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
