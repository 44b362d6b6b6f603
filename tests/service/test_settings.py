from pathlib import Path

import pytest
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings

GOOD = {"DATABASE_URL": "postgresql://localhost/x", "REDIS_URL": "redis://localhost", "EXPUNGE_SAMPLE_KEY": "0f" * 32}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_they_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EXPUNGE_BATCH_WINDOW_SECONDS", "0")

    settings = Settings()

    assert settings.sample_key_bytes == bytes.fromhex("0f" * 32)
    assert settings.batch_window.total_seconds() == 0


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_variable_stops_the_start_with_its_name(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)

    with pytest.raises(ValidationError, match=name):
        Settings()


def test_the_application_stops_in_one_line_that_names_each_malformed_variable(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("EXPUNGE_BATCH_WINDOW_SECONDS", "soon")
    environment.setenv("EXPUNGE_RATE_LIMIT", "often")

    with pytest.raises(SystemExit, match=r"EXPUNGE_BATCH_WINDOW_SECONDS: [^\n]*EXPUNGE_RATE_LIMIT: ") as stopped:
        create_app()

    assert "soon" not in str(stopped.value)


@pytest.mark.parametrize("name", ["EXPUNGE_CONNECTORS", "EXPUNGE_MANAGERS", "EXPUNGE_OPENDSR", "EXPUNGE_TRANSCEND"])
def test_the_application_stops_in_one_line_that_names_a_faulty_declaration(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "declared.toml").write_text("[[identities]]\nquiet_hours = 0\n")
    environment.setenv(name, str(tmp_path / "declared.toml"))

    with pytest.raises(SystemExit, match=r"declared\.toml: [^\n]*identities"):
        create_app()


@pytest.mark.parametrize("key", ["", "not hexadecimal", "0f" * 31])
def test_a_sample_key_of_the_wrong_form_is_refused_without_being_shown(
    environment: pytest.MonkeyPatch, key: str
) -> None:
    environment.setenv("EXPUNGE_SAMPLE_KEY", key)

    with pytest.raises(ValidationError, match="EXPUNGE_SAMPLE_KEY") as refusal:
        Settings()

    assert not key or key not in str(refusal.value)


def test_secrets_are_not_printed(environment: pytest.MonkeyPatch) -> None:
    assert "0f0f" not in repr(Settings())
