from service.http.problems import MOST, faults_of, masked


def fault(kind: str, *loc: str | int, message: str = "Wrong", **context: object) -> dict[str, object]:
    return {"type": kind, "loc": loc, "msg": message, "ctx": context, "input": "patient-17"}


def test_a_place_in_the_body_is_a_json_pointer() -> None:
    assert faults_of([fault("string_type", "body", "sample_ids", 3)]) == [
        {"pointer": "/sample_ids/3", "detail": "Wrong."}
    ]


def test_a_field_inside_a_method_is_pointed_at() -> None:
    assert (
        faults_of([fault("method", "body", "method", field="stop.tolerence")])[0]["pointer"] == "/method/stop/tolerence"
    )


def test_a_parameter_is_named_with_its_place() -> None:
    assert faults_of([fault("int_type", "query", "limit")])[0] == {"in": "query", "name": "limit", "detail": "Wrong."}


def test_a_misspelt_field_is_told_with_the_nearest_right_one() -> None:
    (told,) = faults_of([fault("extra_forbidden", "body", "sample_idz")], known=["sample_ids", "dataset"])

    assert told == {"pointer": "/sample_idz", "detail": "There is no field sample_idz; did you mean sample_ids?"}


def test_what_could_be_a_sample_id_is_not_repeated() -> None:
    (told,) = faults_of([fault("extra_forbidden", "body", "patient-17")], known=["dataset"])

    assert "patient" not in str(told)


def test_only_the_first_faults_are_listed() -> None:
    assert len(faults_of([fault("string_type", "body", "models", index) for index in range(100)])) == MOST


def test_what_the_caller_sent_is_masked_unless_it_is_a_word_of_ours() -> None:
    sent = {"kind": "person-17", "stop": ["O'Neill"], "ltu": 1, ".": ""}
    message = "kind is 'person-17', stop has \"O'Neill\"; O'Neill is not one of ltu, ieu."
    assert masked(message, sent) == "kind is '…', stop has '…'; … is not one of ltu, ieu."


def test_what_is_nested_deeper_than_python_recurses_is_masked_too() -> None:
    sent: object = "person-17"
    for _ in range(5000):
        sent = [sent]
    assert masked("it is 'person-17'", sent) == "it is '…'"
