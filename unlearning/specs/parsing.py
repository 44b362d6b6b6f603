"""Specs by kind, and the way from plain JSON to a spec and back."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping
from typing import Any

from unlearning.errors import InvalidSpec
from unlearning.specs.baselines import SSD, AmnesiacRelabel, BadTeacher, FineTune, FisherNoise, RandomLabels, SalUn
from unlearning.specs.methods import IEU, LTU, GradientAscent, Retrain, Stop
from unlearning.specs.rules import require

Method = LTU | IEU | GradientAscent | Retrain
"""What a job may run."""

Baseline = FineTune | RandomLabels | AmnesiacRelabel | FisherNoise | SSD | BadTeacher | SalUn
"""What those are compared with."""

Spec = Method | Baseline

PRODUCTION: dict[str, type[Method]] = {
    "ltu": LTU,
    "ieu": IEU,
    "gradient_ascent": GradientAscent,
    "retrain": Retrain,
}

BASELINES: dict[str, type[Baseline]] = {
    "fine_tune": FineTune,
    "random_labels": RandomLabels,
    "amnesiac_relabel": AmnesiacRelabel,
    "fisher_noise": FisherNoise,
    "ssd": SSD,
    "bad_teacher": BadTeacher,
    "salun": SalUn,
}

SPECS: dict[str, type[Spec]] = {**PRODUCTION, **BASELINES}

DEFAULT_POLICY: tuple[Method, ...] = (LTU(), IEU(), Retrain())
"""What a model's job tries, in this order, until the audit verifies."""


def restored(data: Mapping[str, object]) -> Spec:
    """The method or baseline that `dataclasses.asdict` made this object from. Raises InvalidSpec as `parse` does."""
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in SPECS:
        raise InvalidSpec(f"kind is {kind!r}; it must be one of {', '.join(SPECS)}.", field="kind")
    return _with(SPECS[kind](), data, prefix="")  # type: ignore[no-any-return]  # SPECS holds only the members of Spec


def parse(data: Mapping[str, object]) -> Method:
    """The spec that a JSON object describes, e.g. `{"kind": "ltu", "steps": 40, "stop": {"tolerance": 1}}`.

    Raises InvalidSpec for a baseline, an unknown kind, an unknown or misspelt field, a value of the wrong type or out of range.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in PRODUCTION:
        known = ", ".join(PRODUCTION)
        what = (
            "a baseline, to be compared with and not to be served"
            if isinstance(kind, str) and kind in BASELINES
            else "not a method"
        )
        raise InvalidSpec(f"kind is {kind!r}, {what}; it must be one of {known}.", field="kind")
    return _with(PRODUCTION[kind](), data, prefix="")  # type: ignore[no-any-return]  # PRODUCTION holds Method's members


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


def _with(given: Any, data: Mapping[str, object], *, prefix: str) -> Any:
    """The given spec or stop, changed where `data` says so."""
    fields = {f.name: f for f in dataclasses.fields(given)}
    for name in data:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            known = ", ".join(sorted(fields))
            raise InvalidSpec(f"{prefix}{name} is not a parameter{hint} Known: {known}.", field=f"{prefix}{name}")
    values = {
        name: _value(fields[name].type, getattr(given, name), value, prefix + name) for name, value in data.items()
    }
    return dataclasses.replace(given, **values)


def _value(kind: object, default: object, value: object, name: str) -> object:
    if kind is Stop:
        require(isinstance(value, Mapping), name, "an object", value)
        return _with(default, value, prefix=f"{name}.")  # type: ignore[arg-type]  # checked in the line above
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) <= sys.float_info.max, name, "a finite number", value)
        return float(value)
    if isinstance(kind, type):
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        require(fits, name, f"of type {kind.__name__}", value)
    if isinstance(value, float):
        require(value == value and abs(value) != float("inf"), name, "a finite number", value)
    return value
