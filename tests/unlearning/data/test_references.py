import hashlib

import pytest
import torch

from unlearning.data.references import References, from_bytes, to_bytes
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
