"""Request managers without a protocol of their own here: what their bodies mean, as the operator declares it in a TOML file.

Each manager posts its own JSON. The declaration says where in it the manager's ID of the request, its type and the person's
identities stand (JSON pointers, RFC 6901), and by which words the status is answered.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from connectors.declaration import Declared, Identity, Manager, read_declaration
from connectors.opendsr import MANAGER
from ledger.requests.deadlines import RULES
from ledger.states import ManagedState

Pointer = Annotated[str, Field(max_length=500, pattern=r"^(/([^~/]|~[01])*)+$")]
Word = Annotated[str, Field(min_length=1, max_length=100)]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


class InvalidManagers(ValueError):
    """The file cannot be used. The message says why, with the manager and the field."""


class BodyMismatch(Exception):
    """A body is not as it was declared. The message names the place in it and nothing of its content."""


class Kind(Declared):
    """Where the type of a request stands, and which of its values mean an erasure."""

    at: Pointer
    erasure: Annotated[tuple[Word, ...], Field(min_length=1)]


class PlacedIdentity(Identity):
    """Where an identity stands, and which subject it names."""

    at: Pointer


class Status(Declared):
    """The field in which a status is answered, and its words."""

    field: Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,49}$")] = "status"
    pending: Word = ManagedState.PENDING.value
    in_progress: Word = ManagedState.IN_PROGRESS.value
    completed: Word = ManagedState.COMPLETED.value
    cancelled: Word = ManagedState.CANCELLED.value


class RequestManager(Manager):
    """A manager, and what its bodies mean.

    reference: where its ID of a request stands. type: absent if it sends erasures alone. received_at: when the person asked.
    """

    reference: Pointer
    identities: Annotated[tuple[PlacedIdentity, ...], Field(min_length=1)]
    type: Kind | None = None
    received_at: Pointer | None = None
    regulation: str = "gdpr"
    status: Status = Status()

    def read_reference(self, body: Mapping[str, Any]) -> str:
        """Find the manager's ID of a request. Raises BodyMismatch."""
        found = find(body, self.reference)
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str) or not re.fullmatch(r"[!-.0-~]{1,200}", found):
            raise BodyMismatch(
                f"{self.reference} must be an ID of 1 to 200 ASCII characters without blanks and slashes"
            )
        return found

    def check_type(self, body: Mapping[str, Any]) -> None:
        """Raise BodyMismatch unless the body asks for an erasure."""
        if self.type is not None and find(body, self.type.at) not in self.type.erasure:
            raise BodyMismatch(
                f"{self.type.at} must be {' or '.join(self.type.erasure)}: nothing but erasures is supported"
            )

    def read_subjects(self, body: Mapping[str, Any]) -> list[str]:
        """Name the subjects whom the identities in a body mean. Raises BodyMismatch if there is none."""
        found = [(one, find(body, one.at)) for one in self.identities]
        named = [one.name(value) for one, value in found if isinstance(value, str) and value]
        if not named:
            raise BodyMismatch(f"the body has no text at {' or '.join(one.at for one in self.identities)}")
        return named

    def read_time(self, body: Mapping[str, Any]) -> Any:
        """Find what should be the time at which the person asked."""
        return None if self.received_at is None else find(body, self.received_at)

    def answer(self, reference: str, state: ManagedState) -> dict[str, str]:
        """Write the answer to the manager."""
        return {"id": reference, self.status.field: getattr(self.status, state.value)}


def find(body: Any, pointer: str) -> Any:
    """Return what stands at a JSON pointer; None if nothing does."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(body, Mapping):
            body = body.get(name)
        elif isinstance(body, list) and _INDEX.fullmatch(name) and int(name) < len(body):
            body = body[int(name)]
        else:
            return None
    return body


_FILE = TypeAdapter(dict[str, RequestManager])


def read_managers(path: Path) -> dict[str, RequestManager]:
    """Read the file: a table for each manager, by the name that its path has. Raises InvalidManagers."""
    found = read_declaration(path, _FILE, error=InvalidManagers)
    for name, manager in found.items():
        if name == MANAGER or not _NAME.fullmatch(name):
            raise InvalidManagers(f"{path}: {name!r} is no name for a manager; use a-z, 0-9 and -, and not {MANAGER}")
        if manager.regulation not in RULES:
            raise InvalidManagers(f"{path}: {name}.regulation must be one of {', '.join(RULES)}")
    return found
