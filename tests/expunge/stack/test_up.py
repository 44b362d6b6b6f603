import sys
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.stack.folder import Folder
from expunge.stack.stack import Stack
from expunge.stack.up import first_steps
from tests.expunge.cli.test_do_not_train_command import SETTINGS


def steps(*, workloads: str, key: str | None = None) -> str:
    running = Stack(
        folder=Folder(Path("/x")), settings=replace(SETTINGS, workloads=workloads), api_key=key, children=[]
    )
    return "\n".join(first_steps(running))


def test_the_first_steps_are_the_examples_where_those_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = steps(workloads="examples, acme", key="expunge_secret")
    assert told.startswith(f". {sys.prefix}/bin/activate")
    assert "EXPUNGE_API_KEY=expunge_secret" in told
    assert "expunge register digits examples.digits:workload" in told


def test_elsewhere_they_name_what_is_allowed_and_no_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin")
    told = steps(workloads="acme")
    assert "activate" not in told
    assert "EXPUNGE_WORKLOADS=acme" in told
    assert "examples" not in told
