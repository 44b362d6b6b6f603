"""Specs by kind, and parsing them from JSON."""

import dataclasses
import difflib
import json
import sys
import typing
from collections.abc import Mapping
from typing import Any

from unlearning.errors import InvalidSpec
from unlearning.specs.baselines import (
    MSG,
    NPO,
    RMU,
    SSD,
    AmnesiacRelabel,
    BadTeacher,
    FineTune,
    FisherNoise,
    GradDiff,
    NegGradPlus,
    RandomLabels,
    SalUn,
    SimNPO,
)
from unlearning.specs.methods import (
    CT,
    IEU,
    LTU,
    Certified,
    DropAdapter,
    GradientAscent,
    Matching,
    Retrain,
    Rewind,
    Stop,
)
from unlearning.specs.rules import require

Method = LTU | IEU | Matching | CT | GradientAscent | Retrain | Rewind | DropAdapter | Certified
"""What a job may run."""

Baseline = (
    FineTune
    | NegGradPlus
    | GradDiff
    | NPO
    | SimNPO
    | RMU
    | RandomLabels
    | AmnesiacRelabel
    | FisherNoise
    | SSD
    | BadTeacher
    | SalUn
    | MSG
)
"""What the methods are compared with."""

Spec = Method | Baseline

PRODUCTION: dict[str, type[Method]] = {
    "ltu": LTU,
    "ieu": IEU,
    "matching": Matching,
    "ct": CT,
    "gradient_ascent": GradientAscent,
    "retrain": Retrain,
    "rewind": Rewind,
    "drop_adapter": DropAdapter,
    "certified": Certified,
}

BASELINES: dict[str, type[Baseline]] = {
    "fine_tune": FineTune,
    "neggrad_plus": NegGradPlus,
    "grad_diff": GradDiff,
    "npo": NPO,
    "sim_npo": SimNPO,
    "rmu": RMU,
    "random_labels": RandomLabels,
    "amnesiac_relabel": AmnesiacRelabel,
    "fisher_noise": FisherNoise,
    "ssd": SSD,
    "bad_teacher": BadTeacher,
    "salun": SalUn,
    "msg": MSG,
}

SPECS: dict[str, type[Spec]] = {**PRODUCTION, **BASELINES}

EXACT = frozenset({"retrain", "rewind", "drop_adapter"})
"""The methods whose result is exact by construction: no forgotten sample took part in any of the new weights."""

AIMING = frozenset({"matching", "ieu", "ltu"})
"""The methods that aim at the reference predictions of the forgotten samples, where there are some."""

CHEAP_REWIND = Rewind(max_share=0.5)
"""A rewind that costs less than half of a retraining is tried before the methods that approximate."""

DEFAULT_POLICY: tuple[Method, ...] = (IEU(), Retrain())
"""The methods that a job runs until the audit verifies one, in the order that costs least until then (decision 39)."""

DEFAULT_WITH_REFERENCES: tuple[Method, ...] = (Matching(), IEU(), LTU(), Retrain())
"""The same for a model that has reference predictions, with which LTU costs less and is verified more often."""


def parse(data: Mapping[str, object]) -> Method:
    """Parse the JSON object of a method, e.g. `{"kind": "ltu", "steps": 40, "stop": {"tolerance": 1}}`; other fields have defaults.

    Raises InvalidSpec for a baseline, an unknown kind, an unknown field, or a value of the wrong type or out of range.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in PRODUCTION:
        known = ", ".join(PRODUCTION)
        what = "a baseline, which no job runs" if isinstance(kind, str) and kind in BASELINES else "not a method"
        raise InvalidSpec(f"kind is {kind!r}, {what}; it must be one of {known}.", field="kind")
    return _with(PRODUCTION[kind](), data, prefix="")  # type: ignore[no-any-return]  # PRODUCTION holds Method's members


def parse_any(data: Mapping[str, object]) -> Spec:
    """Parse a JSON object as `parse` does, baselines included. Raises InvalidSpec."""
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in SPECS:
        raise InvalidSpec(f"kind is {kind!r}; it must be one of {', '.join(SPECS)}.", field="kind")
    return _with(SPECS[kind](), data, prefix="")  # type: ignore[no-any-return]  # SPECS holds only the members of Spec


def method_object(method: str | Mapping[str, object]) -> Mapping[str, object]:
    """Turn a method's name or JSON text into the object that `parse` takes. Raises InvalidSpec for malformed JSON."""
    if not isinstance(method, str):
        return method
    if not method.startswith("{"):
        return {"kind": method}
    try:
        return dict(json.loads(method))
    except ValueError as error:
        raise InvalidSpec(f"The method {method!r} is not JSON: {error}") from error


def method_text(method: Method) -> str:
    """Write a method as `method_object` reads it: its name, or JSON with the parameters that are not the defaults."""
    changed = _changed(method, type(method)())
    return json.dumps({"kind": method.kind, **changed}) if changed else method.kind


def _changed(given: Any, default: Any) -> dict[str, object]:
    """List the fields of a spec or stop that differ from the default's."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(given):
        value, usual = getattr(given, field.name), getattr(default, field.name)
        if value != usual:
            found[field.name] = _changed(value, usual) if isinstance(value, Stop) else value
    return found


def _with(given: Any, data: Mapping[str, object], *, prefix: str) -> Any:
    """Replace the fields of a spec or stop that `data` names. Raises InvalidSpec."""
    fields = [field.name for field in dataclasses.fields(given)]
    for name in data:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            known = ", ".join(sorted(fields))
            raise InvalidSpec(f"{prefix}{name} is not a parameter{hint} Known: {known}.", field=f"{prefix}{name}")
    types = typing.get_type_hints(type(given))
    values = {name: _value(types[name], getattr(given, name), value, prefix + name) for name, value in data.items()}
    return dataclasses.replace(given, **values)


def _value(kind: object, default: object, value: object, name: str) -> object:
    """Check one field's value and convert it to its type. Raises InvalidSpec."""
    if kind is Stop:
        require(isinstance(value, Mapping), name, "an object", value)
        return _with(default, value, prefix=f"{name}.")  # type: ignore[arg-type]  # checked in the line above
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) <= sys.float_info.max, name, "a finite number", value)
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON Schema takes 3.0 for an integer too
    if isinstance(kind, type):
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        require(fits, name, f"of type {kind.__name__}", value)
    if isinstance(value, float):
        require(value == value and abs(value) != float("inf"), name, "a finite number", value)
    return value
