"""Write the tables of settings and errors into the pages, from the settings classes and the table of problems.

.venv/bin/python docs/generate.py            rewrite what stands between the markers
.venv/bin/python docs/generate.py --check    exit with status 1 if a page is not current
"""

import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from pydantic.fields import FieldInfo

from service.http.problems import INVALID, MALFORMED_JSON, METHOD_NOT_ALLOWED, NOT_READY, PROBLEMS, UNEXPECTED
from service.settings import Settings as ServiceSettings
from worker.settings import Settings as WorkerSettings

DOCS = Path(__file__).parent


def settings() -> str:
    """One row a variable: who reads it, its default, its description."""
    readers: dict[str, list[str]] = {}
    fields: dict[str, FieldInfo] = {}
    for reader, cls in (("API", ServiceSettings), ("worker, beat", WorkerSettings)):
        for field in cls.model_fields.values():
            name = str(field.validation_alias)
            readers.setdefault(name, []).append(reader)
            fields.setdefault(name, field)
    rows = (
        (f"`{name}`", ", ".join(readers[name]), _default(field), field.description or "")
        for name, field in fields.items()
    )
    return _table(("variable", "read by", "default", "meaning"), rows)


def errors() -> str:
    """One row a status: the types of problems with their titles."""
    kinds = sorted(
        {*PROBLEMS.values(), MALFORMED_JSON, INVALID, METHOD_NOT_ALLOWED, NOT_READY, UNEXPECTED},
        key=lambda kind: (kind.status, kind.slug),
    )
    rows = (
        (str(status), "<br>".join(f"`{kind.slug}`: {kind.title}" for kind in found))
        for status, found in groupby(kinds, key=lambda kind: kind.status)
    )
    return _table(("status", "`type` ends in"), rows)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {"settings": ("settings.md", settings), "errors": ("api.md", errors)}


def stale(*, write: bool) -> list[Path]:
    """Return the pages whose tables are not current; with `write`, rewrite them."""
    found = []
    for name, (file, make) in TABLES.items():
        path = DOCS / file
        text = path.read_text()
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        made = f"{head}{begin}{make()}\n{end}{rest.split(end)[1]}"
        if made != text:
            found.append(path)
            if write:
                path.write_text(made)
    return found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{field.default}`" if field.default not in (None, "") else "none"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *map(tuple, rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    pages = stale(write="--check" not in sys.argv)
    if "--check" in sys.argv and pages:
        sys.exit(f"Not current: {', '.join(path.name for path in pages)}. Run python docs/generate.py.")
