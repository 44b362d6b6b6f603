"""Files in which an operator declares something: TOML, validated, with every fault named by its field."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


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
