import sys
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.cli.up import first_steps
from expunge.stack.folder import Folder, default_folder
from expunge.stack.stack import Stack
from tests.expunge.stack.test_folder import SETTINGS


def steps(*, workloads: str, key: str | None = None, folder: Path = Path("/x")) -> str:
    running = Stack(folder=Folder(folder), settings=replace(SETTINGS, workloads=workloads), api_key=key, children=[])
    return "\n".join(first_steps(running))


def test_the_first_steps_use_the_examples_if_the_allow_list_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    printed = steps(workloads="examples, acme", key="expunge_secret")
    assert printed.startswith(f". {sys.prefix}/bin/activate")
    assert "EXPUNGE_API_KEY=expunge_secret" in printed
    assert "keys create" not in printed
    assert "expunge register digits examples.digits:workload" in printed


def test_otherwise_they_name_the_allow_list_and_no_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin")
    printed = steps(workloads="acme")
    assert "activate" not in printed
    assert "EXPUNGE_WORKLOADS=acme" in printed
    assert "examples" not in printed
    assert "expunge keys create" in printed  # a later start does not know the key that the first one printed
    assert "…" not in printed


def test_they_name_the_data_folder_unless_commands_find_it_by_themselves() -> None:
    assert "EXPUNGE_DATA='/var/my data'" in steps(workloads="acme", folder=Path("/var/my data"))
    assert "EXPUNGE_DATA" not in steps(workloads="acme", folder=default_folder())
