"""The ranges of parameters: declared at a field, checked when a spec is made, and written into the JSON schemas by pydantic."""

import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MultipleOf

from unlearning.errors import InvalidSpec

MAX_COUNT = 1_000_000
"""Of steps, epochs and samples a batch: more is a slip."""

Count = Annotated[int, Ge(1), Le(MAX_COUNT)]
AtLeastOne = Annotated[int, Ge(1)]
NotNegativeCount = Annotated[int, Ge(0)]
LearningRate = Annotated[float, Gt(0), Le(100)]
Passes = Annotated[float, Ge(0), Le(1000)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
AboveOne = Annotated[float, Gt(1)]
Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
InnerShare = Annotated[float, Gt(0), Lt(1)]
Confidence = Annotated[float, Gt(0.5), Lt(1)]
BelowHalf = Annotated[float, Gt(0), Lt(0.5)]


def check_ranges(spec: object) -> None:
    """Check every field of a dataclass against the range or the choices of its annotation. Raises InvalidSpec for the first misfit.

    Of a nested annotation such as `Share | None`, None always fits.
    """
    for name, rules in _rules(type(spec)).items():  # type: ignore[arg-type]  # a class is hashable
        value = getattr(spec, name)
        fits = value is None or all(_fits(rule, value) for rule in rules)
        require(fits, name, " and ".join(map(_written, rules)), value)


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Raise InvalidSpec for the field `name` unless the condition holds."""
    if not condition:
        raise InvalidSpec(f"{name} is {value!r}; it must be {rule}.", field=name)


@cache
def _rules(cls: type[object]) -> dict[str, tuple[Any, ...]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {name: tuple(_rules_of(hint)) for name, hint in hints.items()}
    return {name: rules for name, rules in found.items() if rules}


def _rules_of(hint: Any) -> Iterator[Any]:
    """List the bounds of an annotation; of a Literal, its choices as a tuple."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        yield from hint.__metadata__
    elif origin is Literal:
        yield typing.get_args(hint)
    elif origin in (types.UnionType, typing.Union):
        for inner in typing.get_args(hint):
            yield from _rules_of(inner)


def _fits(rule: Any, value: Any) -> bool:
    match rule:
        case Ge(least):
            return bool(value >= least)
        case Gt(bound):
            return bool(value > bound)
        case Le(most):
            return bool(value <= most)
        case Lt(bound):
            return bool(value < bound)
        case MultipleOf(unit):
            return bool(value % unit == 0)
    return value in rule


def _written(rule: Any) -> str:
    match rule:
        case Ge(least):
            return f"at least {least:,}"
        case Gt(bound):
            return f"above {bound:,}"
        case Le(most):
            return f"at most {most:,}"
        case Lt(bound):
            return f"below {bound:,}"
        case MultipleOf(unit):
            return f"a multiple of {unit:,}"
    return " or ".join(map(repr, rule))
