"""The service's fixtures, for the tests that compare the dashboards with what it exports."""

import shutil

import pytest

from tests.service.conftest import _address, _fresh_metrics, serve, site  # noqa: F401  (fixtures)


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker, from Debian's package `prometheus`."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed")
    return found
