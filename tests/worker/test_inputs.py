import sys
from functools import partial

import pytest
import torch

from ledger.jobs.claims import JobSamples
from ledger.sample_ids import sample_digest
from unlearning.data.samples import SampleSet
from worker.failures import SamplesMissing, WorkloadFailed, WorkloadNotAllowed
from worker.inputs import Split, load_workload, split_train

HERE = "tests.worker.digits"
KEY = bytes(32)


def test_a_factory_under_the_allow_list_gives_its_workload() -> None:
    assert load_workload(f"{HERE}:workload", allowed=("tests",)).name == "tiny-digits"


@pytest.mark.parametrize("reference", ["os:getcwd", "testsuite.x:workload", "tests_evil:workload"])
def test_a_module_outside_the_allow_list_is_refused_before_it_is_imported(reference: str) -> None:
    before = set(sys.modules)
    with pytest.raises(WorkloadNotAllowed):
        load_workload(reference, allowed=("tests", "examples"))
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "reference", ["tests.worker.digits", "tests..x:f", ":f", "tests.x:a.b", "tests.x:__import__('os')"]
)
def test_what_is_not_a_module_and_a_factory_is_refused(reference: str) -> None:
    with pytest.raises(WorkloadNotAllowed):
        load_workload(reference, allowed=("tests", ""))


def test_a_factory_that_raises_is_named_with_its_error() -> None:
    with pytest.raises(WorkloadFailed, match=r"broken' raised \w+ at digits.py:\d+: "):
        load_workload(f"{HERE}:broken", allowed=("tests",))


def test_a_factory_that_is_not_there_is_a_failed_workload() -> None:
    with pytest.raises(WorkloadFailed):
        load_workload(f"{HERE}:nothing", allowed=("tests",))


def test_a_factory_that_returns_something_else_is_a_failed_workload() -> None:
    with pytest.raises(WorkloadFailed):
        load_workload(f"{HERE}:number", allowed=("tests",))


def samples(count: int) -> SampleSet:
    return SampleSet(
        ids=tuple(f"person-{i}" for i in range(count)), inputs=torch.zeros(count, 2), targets=torch.arange(count)
    )


def split(forget: frozenset[bytes], left_out: frozenset[bytes], key: bytes = KEY) -> Split:
    """Split ten people's samples, given by `digests`, for a job. left_out: those that an earlier one has erased."""
    of_job = JobSamples(forget=forget, erased=left_out, unknown=frozenset())
    return split_train(samples(10), of_job, digest=partial(sample_digest, key, "people"))


def digests(*numbers: int) -> frozenset[bytes]:
    return frozenset(sample_digest(KEY, "people", f"person-{i}") for i in numbers)


def test_forgotten_samples_are_in_neither_set() -> None:
    found = split(digests(3, 7), digests(0, 9))
    assert found.forget.targets.tolist() == [3, 7]
    assert found.remain.targets.tolist() == [1, 2, 4, 5, 6, 8]


def test_a_sample_to_forget_that_the_workload_lacks_stops_the_run_without_naming_it() -> None:
    with pytest.raises(SamplesMissing) as raised:
        split(digests(3, 12), frozenset())
    assert "person" not in str(raised.value)


def test_another_key_matches_nothing() -> None:
    with pytest.raises(SamplesMissing):
        split(digests(3), frozenset(), key=bytes(31) + b"1")
