"""The changes that break the ledger's promises fit the code as it is. That the tests notice them is `benchmarks.mutations`."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.promises import PROMISES, Change, NoSuchExpression, Promise, apply


def changed(source: str, old: str, new: str, *, function: str = "") -> str:
    return ast.unparse(apply(source, [Change("module", function, old, new)]))


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.text)
def test_every_change_fits_the_code(promise: Promise) -> None:
    for change in promise.changes:
        spec = find_spec(change.module)
        assert spec is not None
        assert spec.origin is not None
        apply(Path(spec.origin).read_bytes(), [change])
    for file in promise.tests:
        assert Path("tests/ledger", file).exists()


def test_an_expression_is_found_however_it_is_formatted() -> None:
    assert changed("x = f(\n  a , # why\n  (b))", "f(a, b)", "g()") == "x = g()"


def test_an_argument_can_be_removed() -> None:
    assert changed("x = f(a == 1, b == 2)", "b == 2", "") == "x = f(a == 1)"


def test_a_wildcard_stands_for_any_expression() -> None:
    assert changed("x = f(1, 2).g(y=3)", "_.g(y=_1)", "h(_1, _)") == "x = h(3, f(1, 2))"


def test_a_change_may_be_limited_to_a_function() -> None:
    source = "def f():\n    return a\n\ndef g():\n    return a"
    assert changed(source, "a", "b", function="g") == "def f():\n    return a\n\ndef g():\n    return b"


def test_code_that_no_longer_has_the_expression_is_refused() -> None:
    with pytest.raises(NoSuchExpression):
        changed("x = 1", "y", "z")
