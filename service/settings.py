"""Settings of the HTTP API, from the environment."""

from datetime import timedelta
from pathlib import Path

import limits
from pydantic import Field, field_validator

from connectors.settings import SharedSettings, open_storage
from connectors.storage import Storage
from ledger.db import IDLE_LIMIT


class Settings(SharedSettings):
    """The settings. A missing or malformed variable stops the start, with its name in the error."""

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
        description="How long a statement of a call may take before the call gets 503. An open transaction may wait as long, and "
        f"{IDLE_LIMIT:g} seconds at most. Lists and uploads of millions of samples may take half an hour.",
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
    managers: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_MANAGERS",
        description="The TOML file that declares further [request managers](integrations/request-managers.md). Without it the "
        "service has no such calls.",
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

    @property
    def files(self) -> Storage | None:
        """The storage of weights, if this process may read it."""
        return None if self.storage is None else open_storage(self.storage, cache=self.storage_cache)

    @property
    def batch_window(self) -> timedelta:
        """How long a new job waits for further requests for its model."""
        return timedelta(seconds=self.batch_window_seconds)
