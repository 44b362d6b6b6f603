import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.canonical import NotCanonical, canonical_json, canonical_sha256

LARGEST = 2**53 - 1
PLAIN = st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text()
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(PLAIN | FLOATS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def test_the_example_of_the_standard_has_the_bytes_of_the_standard() -> None:
    # RFC 8785, section 3.2.2 and 3.2.4.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_json(value) == expected.encode()


def test_keys_are_sorted_by_utf_16_code_unit_as_the_standard_asks() -> None:
    # RFC 8785, section 3.2.3: the emoji sorts before U+FB33 by UTF-16 and after it by code point.
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert [*json.loads(canonical_json(value)).values()] == [2, 4, 6, 7, 1, 5, 3]


def test_a_whole_float_and_its_integer_are_the_same_number() -> None:
    assert canonical_json([1.0, -0.0]) == canonical_json([1, 0]) == b"[1,0]"


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2**53 + 1, {1: "a key"}, {"a set": {1}}, b"bytes", "\ud800"]
)
def test_what_json_can_not_hold_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical_json({"value": value} if not isinstance(value, dict) else value)


@given(VALUES)
def test_reading_the_canonical_bytes_and_writing_them_again_changes_nothing(value: object) -> None:
    once = canonical_json(value)
    assert canonical_json(json.loads(once)) == once


def test_the_digest_is_that_of_the_canonical_bytes() -> None:
    assert canonical_sha256({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


def test_a_large_whole_float_reads_back_as_the_same_number() -> None:
    assert canonical_json(1e16) == canonical_json(json.loads(canonical_json(1e16))) == b"10000000000000000"
