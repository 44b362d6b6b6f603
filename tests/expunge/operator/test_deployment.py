"""Which deployment a command works on: that of the environment, or of the stack that runs here, and never some of each."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.errors import StackError
from expunge.operator.deployment import DeploymentSettings, find_deployment, open_database, read_deployment_settings
from expunge.stack.folder import Folder, StackSettings, lock_folder, sample_key, write_stack_settings

OTHER = "cd" * 32


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Folder, StackSettings]]:
    """A stack of the current folder, which the environment says nothing about."""
    for name in ("DATABASE_URL", "REDIS_URL", "EXPUNGE_STORAGE", "EXPUNGE_SAMPLE_KEY", "EXPUNGE_SIGNING_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with lock_folder(tmp_path / ".expunge") as folder:
        settings = StackSettings(
            api_url="http://127.0.0.1:8000",
            database_url="postgresql://stack",
            redis_url="redis://stack",
            storage=str(folder.weights),
            workloads="examples",
            signing_keys=str(folder.signing_keys),
        )
        write_stack_settings(folder, settings)
        sample_key(folder)
        yield folder, settings


def test_what_the_environment_does_not_say_is_the_running_stacks(running: tuple[Folder, StackSettings]) -> None:
    folder, settings = running
    assert read_deployment_settings() == DeploymentSettings(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        storage=folder.weights,
        sample_key=folder.sample_key.read_text(),
        signing_keys=folder.signing_keys,
        workloads="examples",
        key_file=folder.sample_key,
    )


def test_keys_that_the_stack_was_given_are_the_commands_too(running: tuple[Folder, StackSettings]) -> None:
    folder, settings = running
    write_stack_settings(folder, replace(settings, sample_key=OTHER, signing_keys="/keys"))
    found = read_deployment_settings()
    assert (found.sample_key, found.signing_keys, found.key_file) == (OTHER, Path("/keys"), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXPUNGE_STORAGE", "s3://production/weights"),
        ("EXPUNGE_STORAGE", "weights"),
        ("EXPUNGE_SAMPLE_KEY", OTHER),
        ("EXPUNGE_SIGNING_KEYS", "/keys"),
    ],
)
def test_another_value_than_the_stacks_is_refused(
    running: tuple[Folder, StackSettings], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StackError, match=f"{name} is not what the stack") as refused:
        find_deployment()
    assert value not in str(refused.value)


def test_the_stacks_own_values_are_not_refused_nor_is_a_key_after_a_rotation(
    running: tuple[Folder, StackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = running
    mine = folder.sample_key.read_text()
    for name, value in {
        "DATABASE_URL": settings.database_url,
        "EXPUNGE_STORAGE": f"file://{settings.storage}",
        "EXPUNGE_SIGNING_KEYS": ".expunge/signing-keys",
    }.items():
        monkeypatch.setenv(name, value)
    for key in (mine, mine.upper(), mine + OTHER):
        monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", key)
        assert find_deployment(folder.root).sample_key.hex() == key.lower()


def test_with_another_database_nothing_is_taken_from_the_stack(
    running: tuple[Folder, StackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = running
    monkeypatch.setenv("DATABASE_URL", "postgresql://production")
    with pytest.raises(StackError, match="DATABASE_URL is not what the stack"):
        find_deployment(folder.root)  # who names the folder means the stack
    with pytest.raises(StackError, match="the other settings are not all set"):
        find_deployment()
    monkeypatch.setenv("EXPUNGE_STORAGE", "s3://production/weights")
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", OTHER)
    found = find_deployment()
    assert (found.database_url, found.storage) == ("postgresql://production", "s3://production/weights")
    assert found.sample_key.hex() == OTHER


def test_the_settings_of_a_stack_of_another_release_are_an_error_that_says_so(
    running: tuple[Folder, StackSettings],
) -> None:
    folder, _ = running
    for content in ("{", '{"a_new_field": 1}'):
        folder.settings.write_text(content)
        with pytest.raises(StackError, match="Start the stack again"):
            find_deployment()


def test_an_error_of_ours_keeps_its_kind_within_a_database_and_a_name_of_other_bytes_is_said(database_url: str) -> None:
    with pytest.raises(UnicodeEncodeError), open_database(database_url):
        "ü".encode("ascii")
    with pytest.raises(StackError, match="not in UTF-8"), open_database(database_url):
        b"\xfc".decode(errors="surrogateescape").encode()
