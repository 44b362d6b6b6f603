"""The methods' parameters as an outsider sends them: understood, or refused with the field named."""

import dataclasses
import json
import math
import typing
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearning.errors import InvalidSpec, UnlearningError
from unlearning.specs import (
    BASELINES,
    DEFAULT_POLICY,
    DEFAULT_WITH_REFERENCES,
    LTU,
    PRODUCTION,
    SPECS,
    Method,
    Retrain,
    Stop,
    method_object,
    method_text,
    parse,
)

BIG = 10**400
every_kind = pytest.mark.parametrize("kind", sorted(PRODUCTION))
ITERATIVE = sorted(kind for kind in PRODUCTION if any(f.name == "stop" for f in dataclasses.fields(PRODUCTION[kind])))


def values_of(kind: object) -> st.SearchStrategy[object]:
    """Values of a field's type, many of them out of range."""
    if kind is Stop:
        return specs_of(Stop)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    return {
        int: st.integers(-1, 200),
        bool: st.booleans(),
        float: st.floats(-0.1, 2.0, allow_nan=False) | st.floats(allow_nan=False, allow_infinity=False),
    }[kind]


def specs_of(cls: type) -> st.SearchStrategy[object]:
    """Valid specs alone: what the class refuses is left out, and a field left out keeps its default."""

    @st.composite
    def build(draw: st.DrawFn) -> object:
        chosen = draw(st.lists(st.sampled_from(list(typing.get_type_hints(cls).items())), max_size=3, unique=True))
        try:
            return cls(**{name: draw(values_of(kind)) for name, kind in chosen})
        except InvalidSpec:
            return cls()

    return build()


@given(st.one_of([specs_of(cls) for cls in PRODUCTION.values()]))
def test_what_is_written_is_read_back_the_same(spec: Method) -> None:
    assert parse(json.loads(json.dumps(asdict(spec)))) == spec
    assert parse(method_object(method_text(spec))) == spec


def test_a_methods_text_has_what_differs_from_the_defaults_alone() -> None:
    assert method_text(Retrain()) == "retrain"
    changed = LTU(steps=41, stop=replace(LTU().stop, tolerance=2.0))
    assert method_text(changed) == '{"kind": "ltu", "steps": 41, "stop": {"tolerance": 2.0}}'


@given(
    st.dictionaries(
        st.sampled_from(["kind", "steps", "stop", "learning_rate", "order", "meta", "decay", "nonsense"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.just(BIG)
            | st.floats()
            | st.text()
            | st.sampled_from(sorted(PRODUCTION)),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_whatever_json_is_sent_is_understood_or_refused(data: dict[str, object]) -> None:
    try:
        spec = parse(data)
    except InvalidSpec:
        return

    assert parse(asdict(spec)) == spec


@every_kind
def test_the_kind_alone_gives_the_defaults(kind: str) -> None:
    assert parse({"kind": kind}) == PRODUCTION[kind]()
    assert PRODUCTION[kind]().kind == kind


def test_a_whole_number_may_be_written_as_json_schema_allows() -> None:
    steps = parse(json.loads('{"kind": "ltu", "steps": 874.0}')).steps  # type: ignore[union-attr]  # LTU has steps
    assert (steps, type(steps)) == (874, int)


@pytest.mark.parametrize("data", [{}, {"kind": "oblivion"}, {"kind": None}, {"kind": ["ltu"]}, {"kind": {"ltu": 1}}])
def test_an_unknown_kind_is_refused_with_the_known_ones_named(data: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        parse(data)

    assert refusal.value.field == "kind"
    assert all(kind in str(refusal.value) for kind in PRODUCTION)


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_no_job_runs_a_baseline(kind: str) -> None:
    with pytest.raises(InvalidSpec, match="baseline") as refusal:
        parse({"kind": kind})

    assert refusal.value.field == "kind"
    assert BASELINES[kind]().kind == kind


def test_a_kind_is_a_method_or_a_baseline_and_not_both() -> None:
    assert not PRODUCTION.keys() & BASELINES.keys()
    assert SPECS.keys() == PRODUCTION.keys() | BASELINES.keys()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, "batch_size", 0) for kind in sorted(BASELINES)),
        *(
            (kind, name, value)
            for kind in sorted(BASELINES.keys() - {"fisher_noise", "ssd"})
            for name, value in (("epochs", 0), ("learning_rate", 0.0), ("learning_rate", 101.0))
        ),
        ("fisher_noise", "noise", 0.0),
        ("fisher_noise", "floor", 0.0),
        ("ssd", "selection", 0.0),
        ("ssd", "dampening", -1.0),
        ("bad_teacher", "temperature", 0.0),
        ("bad_teacher", "remain_share", 0.0),
        ("neggrad_plus", "remain_weight", 0.0),
        ("neggrad_plus", "remain_weight", 1.1),
        ("grad_diff", "forget_weight", -1.0),
        ("npo", "beta", 0.0),
        ("npo", "remain_weight", -1.0),
        ("rmu", "depth", 0.0),
        ("rmu", "remain_weight", -1.0),
        ("sim_npo", "beta", 0.0),
        ("sim_npo", "margin", -1.0),
        ("salun", "saliency", 0.0),
        ("salun", "saliency", 1.1),
    ],
)
def test_the_baselines_ranges_hold(kind: str, name: str, value: float) -> None:
    with pytest.raises(InvalidSpec, match=name) as refusal:
        SPECS[kind](**{name: value})

    assert refusal.value.field == name


@pytest.mark.parametrize(
    ("data", "field", "nearest"),
    [
        ({"kind": "ltu", "stpes": 3}, "stpes", "'steps'"),
        ({"kind": "ieu", "nosie": 0.1}, "nosie", "'noise'"),
        ({"kind": "ltu", "stop": {"tolerence": 1}}, "stop.tolerence", "'tolerance'"),
        ({"kind": "gradient_ascent", "learningrate": 1}, "learningrate", "'learning_rate'"),
    ],
)
def test_a_misspelt_field_is_answered_with_the_nearest(data: dict[str, object], field: str, nearest: str) -> None:
    with pytest.raises(InvalidSpec, match=f"did you mean {nearest}") as refusal:
        parse(data)

    assert refusal.value.field == field


def test_a_field_like_no_other_is_answered_with_all_of_them() -> None:
    with pytest.raises(InvalidSpec, match="Known: kind") as refusal:
        parse({"kind": "retrain", "zzz": 1})

    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize("kind", ITERATIVE)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 1.5),
        ("steps", "3"),
        ("steps", True),
        ("steps", None),
        ("steps", 0),
        ("steps", -1),
        ("batch_size", 0),
        ("batch_size", [1]),
        ("learning_rate", 0),
        ("learning_rate", -0.1),
        ("learning_rate", "0.1"),
        ("learning_rate", True),
        ("learning_rate", math.inf),
        ("learning_rate", -math.inf),
        ("learning_rate", math.nan),
        ("learning_rate", BIG),
        ("learning_rate", -BIG),
        ("stop", 3),
        ("stop", None),
        ("stop", []),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused_by_name(kind: str, name: str, value: object) -> None:
    with pytest.raises(InvalidSpec, match=name) as refusal:
        parse({"kind": kind, name: value})

    assert refusal.value.field == name


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("ltu", "attackers", 1),
        ("ltu", "order", "third"),
        ("ltu", "order", []),
        ("ltu", "combine", "add"),
        ("ltu", "remain_share", 0),
        ("ltu", "remain_share", 1.1),
        ("ltu", "inner_rate", 0),
        ("ltu", "clip", 0),
        ("ltu", "query_size", 0),
        ("ltu", "forgetting_weight", -1),
        ("ltu", "scramble_weight", -1),
        ("ltu", "meta", 1),
        ("ieu", "noise", -0.1),
        ("ieu", "ascent", -1),
        ("ieu", "decay", -1),
        ("ieu", "decay", 1000),
        ("ieu", "repair_steps", -1),
        ("ieu", "clip", 0),
    ],
)
def test_each_methods_own_ranges_hold(kind: str, name: str, value: object) -> None:
    with pytest.raises(InvalidSpec, match=name) as refusal:
        parse({"kind": kind, name: value})

    assert refusal.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("check_every", 0),
        ("tolerance", 0),
        ("tolerance", math.inf),
        ("tolerance", BIG),
        ("allowed_drop", -1),
        ("relearn_share", 1.5),
    ],
)
def test_the_stops_ranges_hold(name: str, value: object) -> None:
    with pytest.raises(InvalidSpec, match=name):
        parse({"kind": "ltu", "stop": {name: value}})


def test_what_a_stop_leaves_out_is_as_the_method_has_it() -> None:
    for kind, cls in PRODUCTION.items():
        if "stop" in {field.name for field in dataclasses.fields(cls)}:
            found = parse({"kind": kind, "stop": {"tolerance": 2}})
            assert found.stop == dataclasses.replace(cls().stop, tolerance=2.0)


def test_ltu_needs_one_feedback_at_least() -> None:
    with pytest.raises(InvalidSpec, match="forgetting"):
        parse({"kind": "ltu", "forgetting": False, "remembering": False})


def test_whole_numbers_serve_where_fractions_may_stand() -> None:
    found = parse({"kind": "ieu", "learning_rate": 1, "decay": 0})

    assert isinstance(found.learning_rate, float)


def test_specs_cannot_be_changed_nor_grown() -> None:
    for cls in SPECS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls().kind = "other"


def test_the_default_policies_end_with_retraining() -> None:
    assert [spec.kind for spec in DEFAULT_POLICY] == ["ieu", "retrain"]
    assert [spec.kind for spec in DEFAULT_WITH_REFERENCES] == ["matching", "ieu", "ltu", "retrain"]


def test_invalid_specs_are_the_librarys_errors() -> None:
    assert issubclass(InvalidSpec, UnlearningError)
