"""Files in which an operator declares something: TOML, validated, with every fault named by its field."""

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")

_PLACE = re.compile(r"\{(value|lower)\}")


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
