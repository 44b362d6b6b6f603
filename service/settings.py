"""Settings of the HTTP API, from the environment."""

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated

import limits
from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from connectors.storage import Location, Storage, open_storage, parse_location
from ledger.sample_ids import SampleKey, parse_sample_key
from telemetry.logs import LogFormat


class Settings(BaseSettings):
    """The settings. A missing or malformed variable stops the start, with its name in the error."""

    model_config = SettingsConfigDict(
        frozen=True, populate_by_name=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL", description="The PostgreSQL database, as `postgresql://…`."
    )
    redis_url: SecretStr = Field(validation_alias="REDIS_URL", description="The broker, as `redis://…`.")
    sample_key: SampleKey = Field(
        validation_alias="EXPUNGE_SAMPLE_KEY",
        description="The key under which sample IDs are hashed: 32 bytes as 64 hex digits, and 64 more after each "
        "[rotation](runbook.md#rotate-the-sample-key). Back it up.",
    )
    storage: Annotated[Location, BeforeValidator(parse_location)] | None = Field(
        default=None,
        validation_alias="EXPUNGE_STORAGE",
        description="Where weights and training checkpoints are: a folder, or a bucket as `s3://bucket/prefix` "
        "([object storage](integrations/storage.md)). The worker needs it; the API only to send weights to servers. "
        "`expunge up` takes it too; without it weights are in the data folder.",
    )
    storage_cache: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_STORAGE_CACHE",
        description="The folder for copies of an object storage's files, kept for a day after their last use. By default one in "
        "the machine's temporary folder.",
    )
    signed_url_seconds: int | None = Field(
        default=None,
        gt=0,
        le=604800,
        validation_alias="EXPUNGE_SIGNED_URL_SECONDS",
        description="If it is set and the storage can sign, servers that fetch weights are sent to a signed URL of the bucket, "
        "which is valid so long.",
    )
    batch_window_seconds: float = Field(
        default=900,
        ge=0,
        validation_alias="EXPUNGE_BATCH_WINDOW_SECONDS",
        description="How long a model's first request waits for others to join its job.",
    )
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024,
        gt=0,
        validation_alias="EXPUNGE_MAX_BODY_BYTES",
        description="The largest accepted body; the default is 16 MiB.",
    )
    max_upload_bytes: int = Field(
        default=512 * 1024 * 1024,
        gt=0,
        validation_alias="EXPUNGE_MAX_MANIFEST_BYTES",
        description="The largest accepted upload of sample IDs (`POST /uploads`); the default is 512 MiB.",
    )
    statement_seconds: float = Field(
        default=30,
        gt=0,
        validation_alias="EXPUNGE_STATEMENT_SECONDS",
        description="How long a statement of a call may take, and a transaction may wait, before the call gets 503. "
        "Lists and uploads of millions of samples may take half an hour.",
    )
    rate_limit: str | None = Field(
        default=None,
        validation_alias="EXPUNGE_RATE_LIMIT",
        description="How many calls each API key may make, as `100/minute`, refused ones included. All processes count together "
        "in Redis, over a sliding window; while Redis is down, calls pass uncounted.",
    )
    address_rate_limit: str | None = Field(
        default="600/minute",
        validation_alias="EXPUNGE_ADDRESS_RATE_LIMIT",
        description="How many calls without a good key may come from one client address, as `600/minute`; `none` for no limit. "
        "Each process counts its own. Health checks and metrics are not counted.",
    )
    public_url: str | None = Field(
        default=None,
        validation_alias="EXPUNGE_PUBLIC_URL",
        description="The API's public address: in its OpenAPI document and bills of materials, and from where the console's forms "
        "are accepted behind a proxy. With `https` the console's cookie is sent over TLS alone.",
    )
    connectors: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_CONNECTORS",
        description="A TOML file of the systems to which the beat hands served versions over, such as "
        "[model servers](integrations/README.md). The API needs it only to receive [webhooks](integrations/mlflow.md) from them.",
    )
    opendsr: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_OPENDSR",
        description="The TOML file that declares [OpenDSR](integrations/opendsr.md). Without it the service has no such calls.",
    )
    managers: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_MANAGERS",
        description="The TOML file that declares further [request managers](integrations/request-managers.md). Without it the "
        "service has no such calls.",
    )
    transcend: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_TRANSCEND",
        description="The TOML file that declares [Transcend](integrations/transcend.md). Without it the service has no such calls.",
    )
    log: LogFormat = Field(
        default=LogFormat.TEXT, validation_alias="EXPUNGE_LOG", description="The format of the log: `text` or `json`."
    )

    @field_validator("rate_limit", "address_rate_limit")
    @classmethod
    def _check_rate_limit(cls, value: str | None) -> str | None:
        if not value or value == "none":
            return None
        try:
            limits.parse(value)
        except ValueError:
            raise ValueError("must be a number of calls and a time, as in 100/minute") from None
        return value

    @cached_property
    def sample_key_bytes(self) -> bytes:
        """The key of the HMAC that replaces sample IDs: 32 bytes."""
        return parse_sample_key(self.sample_key.get_secret_value())

    @property
    def files(self) -> Storage | None:
        """The storage of weights, if this process may read it."""
        return None if self.storage is None else open_storage(self.storage, cache=self.storage_cache)

    @property
    def batch_window(self) -> timedelta:
        """How long a new job waits for further requests for its model."""
        return timedelta(seconds=self.batch_window_seconds)
