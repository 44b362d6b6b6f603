import pytest
import torch

from ledger.sample_ids import sample_digest
from unlearning.data.samples import SampleSet
from worker.errors import SamplesMissing
from worker.inputs import split_train

KEY = bytes(32)


def samples(count: int) -> SampleSet:
    return SampleSet(
        ids=tuple(f"person-{i}" for i in range(count)), inputs=torch.zeros(count, 2), targets=torch.arange(count)
    )


def digests(*numbers: int) -> frozenset[bytes]:
    return frozenset(sample_digest(KEY, "people", f"person-{i}") for i in numbers)


def test_forgotten_samples_are_in_neither_set() -> None:
    split = split_train(samples(10), dataset="people", key=KEY, forget=digests(3, 7), erased=digests(0, 9))
    assert split.forget.targets.tolist() == [3, 7]
    assert split.remain.targets.tolist() == [1, 2, 4, 5, 6, 8]
    assert split.erased == 2


def test_a_sample_to_forget_that_the_workload_lacks_stops_the_run_without_naming_it() -> None:
    with pytest.raises(SamplesMissing, match="has 1 of the 2 samples") as raised:
        split_train(samples(10), dataset="people", key=KEY, forget=digests(3, 12), erased=frozenset())
    assert "person" not in str(raised.value)


def test_another_key_matches_nothing() -> None:
    with pytest.raises(SamplesMissing, match="EXPUNGE_SAMPLE_KEY"):
        split_train(samples(10), dataset="people", key=bytes(31) + b"1", forget=digests(3), erased=frozenset())
