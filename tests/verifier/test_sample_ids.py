import unicodedata

import pytest

from verifier.sample_ids import MAX_SAMPLE_ID_LENGTH, InvalidSampleID, check_sample_id


@pytest.mark.parametrize(
    "text",
    ["a", "form 17", "Zoë", "Zoe\u0308", "0017", "a,b", 'q"', "دل\u200cربا", "👩\u200d🔬", "x" * MAX_SAMPLE_ID_LENGTH],
)
def test_an_id_is_returned_as_it_is(text: str) -> None:
    assert check_sample_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Jane" * MAX_SAMPLE_ID_LENGTH,
        " Jane",
        "Jane ",
        "\u00a0Jane",
        "Jane\u3000",
        " ",
        "Jane\nJane",
        "Jane\r",
        "\tJane",
        "Jane\x00Jane",
        "Jane\x85Jane",
        "Jane\u2028Jane",
        "\ufeffJane",
        "Jane\ud800",
        "\udcffJane",
    ],
)
def test_what_no_line_of_a_file_can_carry_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidSampleID) as refusal:
        check_sample_id(text)

    assert str(refusal.value).isascii()
    assert "Jane" not in str(refusal.value)


def test_every_id_comes_back_from_a_file_of_lines() -> None:
    ids = [check_sample_id(chr(code) + "a") for code in range(0x3000) if _is_id(chr(code) + "a")]

    assert "\n".join(ids).encode().decode().splitlines() == ids


def _is_id(text: str) -> bool:
    try:
        check_sample_id(text)
    except InvalidSampleID:
        return False
    return True


def test_ids_that_differ_in_case_or_normalisation_are_different() -> None:
    composed, decomposed = (check_sample_id(unicodedata.normalize(form, "Zoë")) for form in ("NFC", "NFD"))

    assert composed != decomposed
    assert check_sample_id("A") != check_sample_id("a")
