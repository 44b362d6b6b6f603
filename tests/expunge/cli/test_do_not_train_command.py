from pathlib import Path

import pytest
import typer

from expunge.cli.caller import find_sample_key
from expunge.stack.folder import Settings, occupied, remember, sample_key

SETTINGS = Settings(
    api_url="http://x", database_url="postgresql://x", redis_url="redis://x", storage="/x", workloads="x"
)


def test_the_key_is_the_given_one_else_that_of_the_stack_that_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with occupied(tmp_path / ".expunge") as folder:
        remember(folder, SETTINGS)
        made = sample_key(folder)
        assert find_sample_key(None).hex() == made
        assert find_sample_key("cd" * 32) == b"\xcd" * 32


def test_where_no_stack_runs_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".expunge").mkdir()
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "ab" * 32)
    assert find_sample_key(None) == b"\xab" * 32


@pytest.mark.parametrize("wrong", ["xyz", "ab"])
def test_what_is_no_key_is_refused_with_what_would_be_one(wrong: str) -> None:
    with pytest.raises(typer.BadParameter, match="64 hex digits"):
        find_sample_key(wrong)
