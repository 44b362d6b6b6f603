import sys

import pytest

from worker.errors import WorkloadFailed, WorkloadNotAllowed
from worker.inputs import load_workload

HERE = "tests.worker.digits"


def test_a_factory_under_the_allow_list_gives_its_workload() -> None:
    assert load_workload(f"{HERE}:workload", allowed=("tests",)).name == "tiny-digits"


@pytest.mark.parametrize("reference", ["os:getcwd", "testsuite.x:workload", "tests_evil:workload"])
def test_a_module_outside_the_allow_list_is_refused_before_it_is_imported(reference: str) -> None:
    before = set(sys.modules)
    with pytest.raises(WorkloadNotAllowed, match="EXPUNGE_WORKLOADS"):
        load_workload(reference, allowed=("tests", "examples"))
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "reference", ["tests.worker.digits", "tests..x:f", ":f", "tests.x:a.b", "tests.x:__import__('os')"]
)
def test_what_is_not_a_module_and_a_factory_is_refused(reference: str) -> None:
    with pytest.raises(WorkloadNotAllowed, match="module:factory"):
        load_workload(reference, allowed=("tests", ""))


def test_a_factory_that_raises_is_named_with_its_error() -> None:
    with pytest.raises(WorkloadFailed, match=r"'tests\.worker\.digits:broken' raised FileNotFoundError: no data here"):
        load_workload(f"{HERE}:broken", allowed=("tests",))


def test_a_factory_that_is_not_there_is_a_failed_workload() -> None:
    with pytest.raises(WorkloadFailed, match="AttributeError"):
        load_workload(f"{HERE}:nothing", allowed=("tests",))


def test_a_factory_that_returns_something_else_is_a_failed_workload() -> None:
    with pytest.raises(WorkloadFailed, match="returned a int"):
        load_workload(f"{HERE}:number", allowed=("tests",))
