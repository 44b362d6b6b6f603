"""Settings that the API, the worker and the beat have in common, from the environment."""

import os
import tempfile
from functools import cache as once
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from connectors.storage import LocalFolder, Location, Storage, parse_location
from ledger.sample_ids import SampleKey, parse_sample_key
from telemetry.logs import LogFormat

StorageLocation = Annotated[Location, BeforeValidator(parse_location)]
"""The type of a setting that says where the storage is."""

FROM_ENVIRONMENT = SettingsConfigDict(
    frozen=True, populate_by_name=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
)


class SharedSettings(BaseSettings):
    """What every process of a deployment needs to know."""

    model_config = FROM_ENVIRONMENT

    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL", description="The PostgreSQL database, as `postgresql://…`."
    )
    redis_url: SecretStr = Field(validation_alias="REDIS_URL", description="The broker, as `redis://…`.")
    sample_key: SampleKey = Field(
        validation_alias="EXPUNGE_SAMPLE_KEY",
        description="The key under which sample IDs are hashed: 32 bytes as 64 hex digits, and 64 more after each "
        "[rotation](runbook.md#rotate-the-sample-key). Back it up.",
    )
    storage: StorageLocation | None = Field(
        default=None,
        validation_alias="EXPUNGE_STORAGE",
        description="Where weights and training checkpoints are: a folder, or a bucket as `s3://bucket/prefix` "
        "([object storage](integrations/storage.md)). The worker needs it; the API only to send weights to servers. "
        "`expunge up` takes it too; without it weights are in the data folder.",
    )
    storage_cache: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_STORAGE_CACHE",
        description="The folder for copies of an object storage's files, kept for a day after their last use, and by a command "
        "until it ends. By default one in the machine's temporary folder.",
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
    transcend: Path | None = Field(
        default=None,
        validation_alias="EXPUNGE_TRANSCEND",
        description="The TOML file that declares [Transcend](integrations/transcend.md). Without it the service has no such calls.",
    )
    log: LogFormat = Field(
        default=LogFormat.TEXT, validation_alias="EXPUNGE_LOG", description="The format of the log: `text` or `json`."
    )

    @cached_property
    def sample_key_bytes(self) -> bytes:
        """The key of the HMAC that replaces sample IDs: 32 bytes, and 32 more for each rotation."""
        return parse_sample_key(self.sample_key.get_secret_value())


def open_storage(location: Location, *, cache: Path | None = None) -> Storage:
    """Open a storage; it connects to nothing yet. cache: the folder for copies of an object storage's files."""
    if isinstance(location, Path):
        return LocalFolder(location)
    return _object_storage(location, cache or default_cache())


@once
def _object_storage(url: str, cache: Path) -> Storage:
    from connectors.object_storage import ObjectStorage

    return ObjectStorage(url, cache=cache)


def default_cache() -> Path:
    """The folder of copies where none is set: one of this user in the machine's temporary folder."""
    return Path(tempfile.gettempdir()) / f"expunge-cache-{os.getuid()}"
