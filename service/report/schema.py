"""The report's JSON Schema (2020-12), and reading a stored report by it.

`python -m service.report.schema > service/report/schema.json` writes the published text anew.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import JsonValue, TypeAdapter, ValidationError

from ledger.canonical import NotCanonical, canonical_json
from service.report.document import SCHEMA_ID, Report
from service.report.errors import InvalidReport


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def json_schema() -> dict[str, JsonValue]:
    """The published schema; schema.json beside this file is its text."""
    body = _adapter().json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **body}


@cache
def published_schema() -> bytes:
    """The text of schema.json."""
    return files("service.report").joinpath("schema.json").read_bytes()


def validate(report: Mapping[str, object]) -> None:
    """Check a report to the letter: unknown fields are faults too. Raises InvalidReport."""
    _read(report, extra="forbid")


def read(report: Mapping[str, object]) -> Report:
    """The report as typed data, for showing it; a later writer's fields are passed over. Raises InvalidReport."""
    return _read(report, extra="ignore")


def _read(report: Mapping[str, object], *, extra: str) -> Report:
    # Through the canonical bytes, so that what is read is what the digest covers and 24.0 is the integer 24.
    try:
        return _adapter().validate_json(canonical_json(report), extra=extra)  # type: ignore[arg-type]  # a literal, passed on
    except NotCanonical as error:
        raise InvalidReport([str(error)]) from error
    except ValidationError as error:
        faults = [f"/{'/'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise InvalidReport(faults) from error


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
