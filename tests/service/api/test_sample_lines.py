import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import uploads as sample_lines
from service.api.uploads import FORMS, MAX_LINE_BYTES, Lines, take, take_last
from service.http.problems import InvalidLine
from verifier.sample_ids import InvalidSampleID, line_to_id

TEXT, NDJSON = FORMS["sample ID"].values()


def read(body: bytes, form: object = TEXT, *, cut: int = 7) -> list[str]:
    lines = Lines(form)  # type: ignore[arg-type]
    found = [each for start in range(0, len(body), cut) for each in take(lines, body[start : start + cut])]
    return [sample_id for _, sample_id in found + take_last(lines)]


def test_lines_are_read_whatever_the_chunks_are() -> None:
    for cut in range(1, 12):
        assert read("a-1\r\nb 2\n\n  \nZoë\nlast".encode(), cut=cut) == ["a-1", "b 2", "Zoë", "last"]


def test_ndjson_holds_strings_or_objects_with_the_id_alone() -> None:
    assert read(b'"a"\n{"sample_id": "b"}\r\n\n"Zo\\u00eb"', NDJSON) == ["a", "b", "Zoë"]


@pytest.mark.parametrize(
    "line",
    [b"1", b"null", b'{"sample_id": 1}', b'{"id": "secret"}', b'{"sample_id": "secret", "x": 1}', b'"\\ud800"', b'""',
     b"secret", b"[" * 3000, b'"' + b"s" * 201 + b'"'],
)  # fmt: skip
def test_a_line_that_is_no_id_is_named_by_its_number_and_not_by_its_words(line: bytes) -> None:
    with pytest.raises(InvalidLine, match=r"(?i)line 2 ") as raised:
        read(b'"good"\n' + line + b"\n", NDJSON, cut=1000)
    assert "secret" not in str(raised.value)


def test_text_is_utf8_and_of_a_bounded_length() -> None:
    for line in (b"\xff", b"x" * 201, b"x" * (MAX_LINE_BYTES + 1)):
        with pytest.raises(InvalidLine, match=r"(?i)line 1 "):
            read(line + b"\n", cut=10_000)


def test_a_line_without_end_is_not_collected() -> None:
    lines = Lines(TEXT, rest=b"x" * MAX_LINE_BYTES)
    with pytest.raises(InvalidLine, match="longer"):
        take(lines, b"x")


def test_no_more_than_the_most_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_lines, "MAX_SAMPLE_IDS", 2)
    with pytest.raises(InvalidLine, match="at most 2"):
        read(b"a\nb\nc\n")


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=205)), st.sampled_from(["\n", "\r\n"]), st.integers(1, 50)
)
def test_a_line_is_an_id_by_the_one_rule_or_refused(written: list[str], end: str, cut: int) -> None:
    body = "".join(line.replace("\n", "") + end for line in written).encode()
    try:
        wanted = [found for line in written if (found := line_to_id(line.replace("\n", ""))) is not None]
    except InvalidSampleID:
        with pytest.raises(InvalidLine):
            read(body, cut=cut)
    else:
        assert read(body, cut=cut) == wanted


def test_each_id_has_the_number_of_its_line() -> None:
    lines = Lines(TEXT)
    assert take(lines, b"a\n\nb\r\nc") + take_last(lines) == [(1, "a"), (3, "b"), (4, "c")]


def test_a_key_that_comes_twice_in_a_line_is_refused() -> None:
    with pytest.raises(InvalidLine, match=r"(?i)line 1 "):
        read(b'{"sample_id": "a", "sample_id": "b"}', NDJSON)
