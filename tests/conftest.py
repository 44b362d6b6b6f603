"""For every test: the order and the distribution of a run, one thread of torch, and what Hypothesis tries."""

import gc
import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two processes of tests share two cores: more threads of torch only wait for each other. Before the first import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.fixtures.postgresql", "tests.fixtures.s3"]

UNHURRIED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("few", max_examples=30, **UNHURRIED)
settings.register_profile("many", max_examples=400, **UNHURRIED)
settings.load_profile("few")

STACK = "tests/end_to_end/"

LONG = ("tests/benchmarks/", "tests/examples/", "tests/worker/", "tests/unlearning/methods/test_conformance.py")
"""Where the files are that take longest. One that is begun last would leave the other processes without work."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave modules and tests, which stay to the end, out of every later search for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the whole stack, which takes longest and mostly waits, while another process computes; then what is long."""
    items.sort(key=lambda item: (item.get_closest_marker("end_to_end") is None, not item.nodeid.startswith(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a process whole files, and all that use the one running stack to the same process."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return STACK if nodeid.startswith(STACK) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # which would put the files with the most tests first
    return ByFile(config, log)
