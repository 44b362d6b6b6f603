"""The methods' parameters: torch-free, printable, storable, and the validated body of an API call.

A spec says what to run; `unlearning.methods.registry.METHODS` has the function that runs it. Defaults are this project's own choice
([ours] in docs/methods.md): the papers' constants are not published in any source we have.
"""

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unlearning.errors import InvalidSpec


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise InvalidSpec(f"{name} is {value!r}; it must be {rule}.", field=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """When an iterative method has done enough, judged on held-out data because no retrained model exists (docs/methods.md §4).

    check_every: steps between two checks.
    tolerance: the forget set counts as matched when the root mean square of the standardised differences between its
        statistics and the held-out set's is at most this many standard errors.
    allowed_drop: accuracy, in points, that the remaining and the held-out data may lose; crossing it ends the run.
    relearn_share: the least share of the control's relearning steps that the forget set must need before the run may end
        early; 0 turns the probe off.
    """

    check_every: int = 4
    tolerance: float = 1.0
    allowed_drop: float = 1.5
    relearn_share: float = 0.4

    def __post_init__(self) -> None:
        _require(self.check_every >= 1, "check_every", "at least 1", self.check_every)
        _require(self.tolerance > 0, "tolerance", "above 0", self.tolerance)
        _require(self.allowed_drop >= 0, "allowed_drop", "at least 0 points", self.allowed_drop)
        _require(0 <= self.relearn_share <= 1, "relearn_share", "between 0 and 1", self.relearn_share)


@dataclass(frozen=True, kw_only=True, slots=True)
class LTU:
    """Learning to Unlearn (Huang, Foo, Liu, ECCV 2024, arXiv 2407.10494): two meta-learnt gradients, harmonised.

    steps: iterations; the rate falls to zero over the last half of them, and the best state by the calibrated stop is kept.
    learning_rate: β, the step of the meta-update. inner_rate: α, the step of the meta-tune.
    batch_size: forget samples a step. query_size: remaining samples in each of the three query sets.
    remain_share: ρ, the share of the remaining set that the method may look at (|D̂_r| = ρ|D_r|); remain_least: at least so many
        samples of it, for a share of a small set is too little to remember by.
    clip: the longest meta-gradient that is followed; a longer one is scaled down to it before the two are combined.
    forgetting_weight, scramble_weight: weights of the forgetting feedback and of the random-label support loss. Both fade as the
        forget set comes to look held out and return where it comes back: neither loss has a floor of its own.
    overshoot: standard errors beyond a match that the first half of the run aims at: what is forgotten more deeply comes back
        more slowly, and the second half brings the match.
    attackers: K, how many membership-inference models guide the forgetting (at least 2: one support, one query).
    order: differentiate through the inner step ("second", the paper's) or stop there ("first").
    forgetting, remembering, meta, combine: the paper's ablations.
    """

    kind: Literal["ltu"] = "ltu"
    steps: int = 60
    learning_rate: float = 0.05
    inner_rate: float = 0.002
    clip: float = 1.0
    batch_size: int = 64
    query_size: int = 64
    remain_share: float = 0.3
    remain_least: int = 3000
    forgetting_weight: float = 1.0
    scramble_weight: float = 0.1
    overshoot: float = 1.0
    attackers: int = 3
    order: Literal["second", "first"] = "second"
    forgetting: bool = True
    remembering: bool = True
    meta: bool = True
    combine: Literal["harmonise", "sum", "alternate"] = "harmonise"
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        _check_loop(self.steps, self.learning_rate, self.batch_size)
        _require(self.inner_rate > 0, "inner_rate", "above 0", self.inner_rate)
        _require(self.clip > 0, "clip", "above 0", self.clip)
        _require(self.query_size >= 1, "query_size", "at least 1", self.query_size)
        _require(0 < self.remain_share <= 1, "remain_share", "above 0 and at most 1", self.remain_share)
        _require(self.remain_least >= 1, "remain_least", "at least 1", self.remain_least)
        _require(self.forgetting_weight >= 0, "forgetting_weight", "at least 0", self.forgetting_weight)
        _require(self.scramble_weight >= 0, "scramble_weight", "at least 0", self.scramble_weight)
        _require(0 <= self.overshoot <= 100, "overshoot", "between 0 and 100", self.overshoot)
        _require(self.attackers >= 2, "attackers", "at least 2 (one support, one query)", self.attackers)
        _require(self.order in ("second", "first"), "order", "'second' or 'first'", self.order)
        _require(
            self.combine in ("harmonise", "sum", "alternate"),
            "combine",
            "'harmonise', 'sum' or 'alternate'",
            self.combine,
        )
        _require(self.forgetting or self.remembering, "forgetting", "true where remembering is false", self.forgetting)


@dataclass(frozen=True, kw_only=True, slots=True)
class IEU:
    """Influence Eliminating Unlearning (Tran, Woo, arXiv 2604.09391): bounded ascent, weight decay, noise, then repair.

    steps: most steps of the eliminating phase. repair_steps: steps of the last phase, on remaining data alone.
    learning_rate: η. clip: the longest gradient that is followed. ascent: γ, the weight of the bounded ascent on the forget set.
    decay: λ of W ← (1 − ηλ)W.
    noise: σ, the noise a step in units of each weight tensor's standard deviation.
    batch_size: samples a step, of the forget set and of the remaining set each.
    """

    kind: Literal["ieu"] = "ieu"
    steps: int = 60
    repair_steps: int = 160
    learning_rate: float = 0.05
    clip: float = 1.0
    ascent: float = 1.0
    decay: float = 0.01
    noise: float = 0.05
    batch_size: int = 64
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        _check_loop(self.steps, self.learning_rate, self.batch_size)
        _require(self.repair_steps >= 0, "repair_steps", "at least 0", self.repair_steps)
        _require(self.clip > 0, "clip", "above 0", self.clip)
        _require(self.ascent >= 0, "ascent", "at least 0", self.ascent)
        _require(
            0 <= self.decay * self.learning_rate < 1,
            "decay",
            "such that learning_rate * decay is in [0, 1)",
            self.decay,
        )
        _require(self.noise >= 0, "noise", "at least 0", self.noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientAscent:
    """Plain gradient ascent on the forget set's loss: the simplest baseline, and what Ready2Unlearn prepares for."""

    kind: Literal["gradient_ascent"] = "gradient_ascent"
    steps: int = 60
    learning_rate: float = 0.005
    batch_size: int = 64
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        _check_loop(self.steps, self.learning_rate, self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrain:
    """Train the architecture again from scratch on the remaining set, by the model's own recipe: the oracle, exact and slow."""

    kind: Literal["retrain"] = "retrain"


_MOST = 1_000_000


def _check_loop(steps: int, learning_rate: float, batch_size: int) -> None:
    _require(1 <= steps <= _MOST, "steps", f"between 1 and {_MOST:,}", steps)
    _require(0 < learning_rate <= 100, "learning_rate", "above 0 and at most 100", learning_rate)
    _require(1 <= batch_size <= _MOST, "batch_size", f"between 1 and {_MOST:,}", batch_size)


Spec = LTU | IEU | GradientAscent | Retrain

SPECS: dict[str, type[LTU] | type[IEU] | type[GradientAscent] | type[Retrain]] = {
    "ltu": LTU,
    "ieu": IEU,
    "gradient_ascent": GradientAscent,
    "retrain": Retrain,
}

DEFAULT_POLICY: tuple[Spec, ...] = (LTU(), IEU(), Retrain())
"""What a model's job tries, in this order, until the audit verifies."""


def parse(data: Mapping[str, object]) -> Spec:
    """The spec that a JSON object describes, e.g. `{"kind": "ltu", "steps": 40, "stop": {"tolerance": 1}}`.

    Raises InvalidSpec for an unknown kind, an unknown or misspelt field, a value of the wrong type or out of range.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in SPECS:
        raise InvalidSpec(f"kind is {kind!r}; it must be one of {', '.join(SPECS)}.", field="kind")
    return _build(SPECS[kind], data, prefix="")  # type: ignore[no-any-return]  # SPECS holds only the members of Spec


def to_json(spec: Spec) -> dict[str, object]:
    """The plain JSON object that `parse` turns back into this spec."""
    return dataclasses.asdict(spec)


def _build(cls: type[Any], data: Mapping[str, object], *, prefix: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in data:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            known = ", ".join(sorted(fields))
            raise InvalidSpec(f"{prefix}{name} is not a parameter{hint} Known: {known}.", field=f"{prefix}{name}")
    values = {name: _value(fields[name].type, value, prefix + name) for name, value in data.items()}
    return cls(**values)


def _value(kind: object, value: object, name: str) -> object:
    if kind is Stop:
        _require(isinstance(value, Mapping), name, "an object", value)
        return _build(Stop, value, prefix=f"{name}.")  # type: ignore[arg-type]  # checked in the line above
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        _require(abs(value) <= sys.float_info.max, name, "a finite number", value)
        return float(value)
    if isinstance(kind, type):
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        _require(fits, name, f"of type {kind.__name__}", value)
    if isinstance(value, float):
        _require(value == value and abs(value) != float("inf"), name, "a finite number", value)
    return value
