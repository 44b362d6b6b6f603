import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.unlearning.small import samples
from unlearning.data.references import References, WholeClasses, from_bytes, to_bytes
from unlearning.errors import ReferencesUnusable


def key(sample: str) -> bytes:
    return hashlib.sha256(sample.encode()).digest()


def references(count: int = 5) -> References:
    values = torch.arange(count, dtype=torch.float32)
    return References(
        keys=tuple(key(f"sample-{number}") for number in range(count)),
        predictions=torch.full((count, 3), 1 / 3).half(),
        losses=values,
        unseen=-values,
        seen=2 * values,
        details={"seed": 7},
    )


def test_a_file_gives_back_what_was_written() -> None:
    written = references()

    read = from_bytes(to_bytes(written))

    assert read.keys == written.keys
    assert read.details == {"seed": 7}
    assert torch.equal(read.predictions, written.predictions)
    assert torch.equal(read.seen, written.seen)


def test_equal_references_give_equal_bytes() -> None:
    assert to_bytes(references()) == to_bytes(references())


def test_rows_come_in_the_order_asked_for() -> None:
    rows = references().take([key("sample-3"), key("sample-1")])

    assert rows.losses.tolist() == [3.0, 1.0]


def test_a_method_finds_the_rows_of_other_samples_by_their_ids_and_nothing_of_the_audits_rounds() -> None:
    asked = replace(samples(2, seed=0), ids=("sample-4", "sample-0"))
    seen = references().for_method([key("sample-1")], key=key)
    assert seen.others is not None

    others = seen.others(asked)

    assert others.losses.tolist() == [4.0, 0.0]
    assert others.predictions.dtype == torch.float32
    assert others.others is None
    assert references().for_method([key("sample-1")]).others is None
    with pytest.raises(ReferencesUnusable, match="1 of 2"):
        seen.others(replace(asked, ids=("sample-4", "erased")))


def with_a_class() -> References:
    """Samples 1 and 3 are all of a class that may be forgotten as a whole."""
    keys = (key("sample-3"), key("sample-1"))
    return replace(references(), whole=WholeClasses(keys=keys, predictions=torch.tensor([[0.0, 3], [0, 1]]).half()))


def test_what_models_without_a_class_say_is_kept_beside_the_rows_and_found_for_those_that_have_it() -> None:
    read = from_bytes(to_bytes(with_a_class()))
    seen = read.for_method([key(f"sample-{number}") for number in (0, 1, 2, 3)])

    assert seen.whole is not None
    places, predictions = seen.whole
    assert places.tolist() == [1, 3]
    assert predictions[:, 1].tolist() == [1.0, 3.0]
    assert predictions.dtype == torch.float32
    assert read.for_method([key("sample-0")]).whole is None
    assert references().for_method([key("sample-1")]).whole is None


def test_they_go_with_the_rows_of_erased_samples() -> None:
    left = with_a_class().without({key("sample-1")})
    assert left.whole is not None
    assert left.whole.keys == (key("sample-3"),)
    assert key("sample-1") not in to_bytes(left)
    assert left.without({key("sample-3")}).whole is None


def test_a_file_without_them_is_as_before() -> None:
    content = to_bytes(references())

    assert b"whole" not in content
    assert from_bytes(content).whole is None


@pytest.mark.parametrize(
    "harmed",
    [
        {"keys": (key("a"), key("a"))},
        {"predictions": torch.zeros(3, 2).half()},
        {"predictions": torch.tensor([[0.0, torch.nan], [0, 1]])},
    ],
    ids=["doubled", "rows", "not finite"],
)
def test_damaged_rows_of_a_class_are_told(harmed: dict[str, Any]) -> None:
    with pytest.raises(ReferencesUnusable):
        replace(with_a_class().whole, **harmed)  # type: ignore[type-var]  # it has some


def test_a_missing_row_is_counted_and_not_named() -> None:
    with pytest.raises(ReferencesUnusable) as refused:
        references().take([key("sample-1"), key("sample-9")])

    assert "1 of 2" in str(refused.value)
    assert key("sample-9").hex() not in str(refused.value)


def test_the_rows_of_erased_samples_go() -> None:
    left = references().without({key("sample-0"), key("sample-4"), key("never there")})

    assert left.keys == tuple(key(f"sample-{number}") for number in (1, 2, 3))
    assert left.losses.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("cut", [0, 4, 100, 400])
def test_a_damaged_file_is_refused(cut: int) -> None:
    with pytest.raises(ReferencesUnusable):
        from_bytes(to_bytes(references())[:cut])


def test_a_file_of_another_kind_is_refused() -> None:
    import safetensors.torch

    with pytest.raises(ReferencesUnusable):
        from_bytes(safetensors.torch.save({"weight": torch.zeros(3)}))


def test_values_that_are_not_finite_are_refused() -> None:
    given = references()
    given.losses[2] = torch.nan

    with pytest.raises(ReferencesUnusable):
        from_bytes(to_bytes(given))


def test_two_rows_of_one_sample_are_refused() -> None:
    given = references()

    with pytest.raises(ReferencesUnusable):
        References(
            keys=(given.keys[0],) * 5,
            predictions=given.predictions,
            losses=given.losses,
            unseen=given.unseen,
            seen=given.seen,
            details={},
        )
