import pytest
from pydantic import TypeAdapter, ValidationError

from service.api.methods import Method, list_methods, schemas
from unlearning.specs import IEU, LTU, PRODUCTION

adapter: TypeAdapter[object] = TypeAdapter(Method)


def test_a_name_is_the_method_with_its_defaults() -> None:
    assert adapter.validate_python("ieu") == IEU()


def test_an_object_gives_parameters() -> None:
    method = adapter.validate_python({"kind": "ltu", "steps": 7, "stop": {"tolerance": 1}})

    assert isinstance(method, LTU)
    assert (method.steps, method.stop.tolerance) == (7, 1.0)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"kind": "ltu", "stepz": 7}, "stepz", "did you mean 'steps'"),
        ({"kind": "ltu", "stop": {"tolerence": 1}}, "stop.tolerence", "did you mean 'tolerance'"),
        ({"kind": "ltuu"}, "kind", "must be one of"),
        ("ltuu", "kind", "must be one of"),
        ("salun", "kind", "a baseline"),
        ({"kind": "ssd", "selection": 2}, "kind", "a baseline"),
        ({"steps": 7}, "kind", "must be one of"),
        ({"kind": "ltu", "steps": 0}, "steps", "must be"),
        ({"kind": "ltu", "steps": "many"}, "steps", "int"),
        ({"kind": "ltu", "learning_rate": float("nan")}, "learning_rate", "finite"),
    ],
)
def test_a_fault_is_named_with_its_field(given: object, field: str, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        adapter.validate_python(given)

    (fault,) = refusal.value.errors()
    assert fault["ctx"]["field"] == field
    assert words in fault["msg"]


@pytest.mark.parametrize("given", [7, None, [], {"kind": "ltu", "learning_rate": 10**400}])
def test_what_is_no_method_at_all_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        adapter.validate_python(given)


def test_every_method_has_a_schema_with_a_description() -> None:
    assert set(schemas()) == set(PRODUCTION)
    assert all(schema["description"] and "kind" in schema["properties"] for schema in schemas().values())


def test_a_schema_has_the_ranges_that_are_checked() -> None:
    ltu = schemas()["ltu"]["properties"]
    assert (ltu["steps"]["minimum"], ltu["steps"]["maximum"], ltu["inner_rate"]["exclusiveMinimum"]) == (
        1,
        1_000_000,
        0,
    )
    assert schemas()["ltu"]["$defs"]["Stop"]["properties"]["relearn_share"]["maximum"] == 1


def test_every_method_is_documented_as_a_name_too() -> None:
    (names,) = [choice["enum"] for choice in adapter.json_schema()["anyOf"] if "enum" in choice]
    assert set(names) == {"auto", *PRODUCTION}


def test_every_method_says_which_objectives_it_suits_and_what_it_needs() -> None:
    items = {item.kind: item for item in list_methods().items}

    assert items.keys() == PRODUCTION.keys()
    assert [item.kind for item in items.values() if "causal_language_model" not in item.objectives] == ["certified"]
    assert items["matching"].needs == ["random_access", "references"]
    assert items["ltu"].needs == ["random_access", "random_targets", "whole_model"]
    assert items["rewind"].needs == ["slices"]
    assert items["drop_adapter"].needs == ["adapters", "whole_model"]
    assert items["certified"].needs == ["convex_loss", "head", "whole_model"]
