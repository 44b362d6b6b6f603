"""The operator's file of connectors (EXPUNGE_CONNECTORS), and what a system must be able to do to be one.

The file is TOML: a table for each connector, named by the operator. `kind` chooses the class in `SYSTEMS`; `tenant` and `models`
say which models it concerns; everything else is a field of that class.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from connectors.declaration import faults, read_declaration
from ledger.events.hand_overs import HandedVersion

SYSTEMS: Mapping[str, str] = {
    "v2": "connectors.model_server:V2Server",
    "http": "connectors.model_server:HttpHook",
    "mlflow": "connectors.mlflow:MlflowRegistry",
}
"""The class of each kind of system: a pydantic model of its settings that is a `System`. It is imported if the file names it."""


class HandOverFailed(Exception):
    """The system does not have what it should have, or cannot be asked; it is tried again. The message is for the operator."""


class ConnectorsInvalid(ValueError):
    """The file of connectors cannot be read or is wrong; the message names the connector and the field."""


class System(Protocol):
    """Another system. Each method may be called again after it has succeeded, and for a version that the system has already.

    `weights` gives a file with the version's weights, whose digest has been checked. Every method raises HandOverFailed.
    """

    @property
    def withdraws(self) -> bool:
        """Whether it can delete a version."""

    def hand_over(self, version: HandedVersion, weights: Callable[[], Path]) -> str | None:
        """Have the system serve the version, and verify that it does. Returns where it is there, as one would look it up."""

    def check(self, version: HandedVersion) -> None:
        """Verify that the system still serves the version that it was handed."""

    def withdraw(self, version: HandedVersion) -> None:
        """Delete the version there, and verify that it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """A system with its name in the file, and the models that it is handed: those of a tenant whose name fits a pattern."""

    name: str
    tenant: str
    models: tuple[str, ...]
    system: System

    def concerns(self, model: str) -> bool:
        """Whether versions of this model are handed over to it."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


def read_connectors(path: Path | None) -> tuple[Connector, ...]:
    """Read the operator's file; without one there is no connector. Raises ConnectorsInvalid."""
    if path is None:
        return ()
    tables = read_declaration(path, TypeAdapter(dict[str, Any]), error=ConnectorsInvalid)
    return tuple(_read_connector(path, name, table) for name, table in tables.items())


def _read_connector(path: Path, name: str, table: Any) -> Connector:
    where = f"EXPUNGE_CONNECTORS: [{name}] in {path}"
    if not isinstance(table, dict):
        raise ConnectorsInvalid(f"{where}: a connector is a table, as [{name}] with a line for each setting.")
    fields = dict(table)
    kind, tenant, models = fields.pop("kind", None), fields.pop("tenant", "default"), fields.pop("models", ["*"])
    if kind not in SYSTEMS:
        raise ConnectorsInvalid(f"{where}: kind must be one of {', '.join(sorted(SYSTEMS))}; it is {kind!r}.")
    if not isinstance(tenant, str):
        raise ConnectorsInvalid(f"{where}: tenant must be a name.")
    if not isinstance(models, list) or not models or not all(isinstance(model, str) for model in models):
        raise ConnectorsInvalid(f'{where}: models must be names or patterns, as ["digits-cnn", "reviews-*"].')
    module, _, cls = SYSTEMS[kind].partition(":")
    try:
        system: System = getattr(importlib.import_module(module), cls).model_validate(fields)
    except ImportError as error:
        raise ConnectorsInvalid(f"{where}: {error.name} is not installed; see docs/integrations.") from None
    except ValidationError as error:
        raise ConnectorsInvalid(f"{where}: {faults(error)}") from None
    return Connector(name=name, tenant=tenant, models=tuple(models), system=system)
