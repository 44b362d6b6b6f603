"""Where a request has the wrong shape, in words that repeat nothing the caller sent but plausible field names.

Sample IDs are personal data and a caller can put one anywhere, so a value is never repeated, and a name only if it looks like one.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MOST = 20
"""No more faults than this are listed; the rest are counted."""

_FIELD_NAME = re.compile(r"[a-z][a-z_]{0,39}")


def faults_of(errors: Sequence[Mapping[str, Any]], *, known: Iterable[str] = ()) -> list[dict[str, str]]:
    """Pydantic's errors as `{"pointer" | "in" and "name", "detail"}`, in order, at most `MOST`.

    known: the body's field names, from which the nearest to a misspelt one is offered.
    """
    known = list(known)
    return [_place(error) | {"detail": _detail(error, known)} for error in errors[:MOST]]


def _place(error: Mapping[str, Any]) -> dict[str, str]:
    """A JSON pointer (RFC 6901) into the body, or the name of a header, query or path parameter."""
    source, *steps = error["loc"]
    if source != "body":
        return {"in": str(source), "name": ".".join(map(str, steps))}
    deeper = str(error.get("ctx", {}).get("field") or "")
    steps += deeper.split(".") if deeper else []
    return {"pointer": "".join("/" + _step(step) for step in steps)}


def _step(step: str | int) -> str:
    if isinstance(step, int) or _FIELD_NAME.fullmatch(step):
        return str(step)
    return "?"


def _detail(error: Mapping[str, Any], known: Sequence[str]) -> str:
    if error["type"] == "model_attributes_type":
        return "Must be a JSON object."
    if error["type"] != "extra_forbidden":
        return sentence(str(error["msg"]))
    name = str(error["loc"][-1])
    if not _FIELD_NAME.fullmatch(name):
        return "There is no such field."
    near = difflib.get_close_matches(name, known, n=1)
    return f"There is no field {name}" + (f"; did you mean {near[0]}?" if near else ".")


def masked(message: str, sent: object) -> str:
    """A message without the strings that the caller sent, but those that look like a field's name or a word of ours."""
    for text in sorted(_strings(sent), key=len, reverse=True):
        if not _FIELD_NAME.fullmatch(text):
            message = message.replace(repr(text), "'…'")
            message = message.replace(text, "…") if len(text) > 3 else message
    return message


def _strings(sent: object) -> Iterator[str]:
    """Every string in a JSON value, however deep it lies: callers nest deeper than Python recurses."""
    left = [sent]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case Mapping() as items:
                left += [*items.keys(), *items.values()]
            case list() | tuple() as items:
                left += items


def sentence(message: str) -> str:
    """A message as a sentence: with a capital and an end."""
    message = message.removeprefix("Value error, ").strip()
    ended = message if message.endswith((".", "?", "!")) else message + "."
    return ended[:1].upper() + ended[1:]
