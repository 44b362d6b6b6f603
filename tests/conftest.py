"""Fixtures for every test, and what Hypothesis may not fail for: a busy machine is no finding."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures.postgresql"]

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
