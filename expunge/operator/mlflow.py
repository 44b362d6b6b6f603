"""Models that were made in MLflow: fetch the weights of a version there, to register them here."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from connectors.configuration import ConnectorsInvalid, HandOverFailed, read_connectors
from connectors.mlflow import MlflowRegistry
from expunge.errors import CannotRegister

_PLACE = re.compile(r"(?:models:/)?([^/:]+)/([1-9][0-9]*)")


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
    named = _PLACE.fullmatch(place)
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
