"""What an operator declares in files: TOML, validated, with every fault named by its field.

The file of connectors (EXPUNGE_CONNECTORS) is read here, with what a system must be able to do to be one. It has a table for each
connector, named by the operator. `kind` chooses the class in `SYSTEMS`; `tenant` and `models` say which models it concerns;
everything else is a field of that class. What is declared of request managers is in `connectors.managers`, `connectors.opendsr` and
`connectors.transcend`.
"""

import importlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ledger.events.hand_overs import HandedVersion

T = TypeVar("T")

_PLACE = re.compile(r"\{(value|lower)\}")


def read_declaration(path: Path, kind: TypeAdapter[T], *, error: type[ValueError]) -> T:
    """Read a TOML file as `kind`. Raises `error` with the file and each faulty field; no value is quoted."""
    try:
        return kind.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}") from None
    except ValidationError as fault:
        raise error(f"{path}: {faults(fault)}") from None
    except ValueError as fault:  # no UTF-8, or no TOML
        raise error(f"{path} is not TOML: {fault}") from None


def faults(error: ValidationError) -> str:
    """List what is wrong with a declaration, each fault by its field, without the values."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))


class Declared(BaseModel):
    """A part of a declaration."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(Declared):
    """Which subject an identity of a person names: `{value}` is the identity, `{lower}` the same in small letters."""

    subject: Annotated[str, Field(max_length=100, pattern=r"^[^{}]*\{(value|lower)\}[^{}]*$")] = "{value}"

    def name(self, value: str) -> str:
        """Return the subject that an identity names. value: may look like a place for one."""
        return _PLACE.sub(lambda place: value if place[1] == "value" else value.lower(), self.subject)


class Manager(Declared):
    """What is declared of every request manager."""

    quiet_hours: Annotated[float, Field(ge=0, le=24 * 28)] = 24

    @property
    def quiet(self) -> timedelta:
        """How long every request is shown as pending."""
        return timedelta(hours=self.quiet_hours)


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
