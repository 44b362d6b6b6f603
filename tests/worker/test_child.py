import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.waiting import PATIENCE
from worker import child
from worker.inputs import find_factory

SIGNALLED_AT_EVERY_CALL = """
import signal, sys
from worker.child import stop_on_sigterm, stop_signal

with stop_on_sigterm():
    sys.setprofile(lambda frame, event, argument: signal.raise_signal(signal.SIGTERM))
    signal.raise_signal(signal.SIGTERM)
    sys.setprofile(None)
print(stop_signal.is_set)
"""


def test_a_second_signal_within_the_handler_of_the_first_does_not_hang_the_child() -> None:
    """A parent passes on every SIGTERM that it gets; with a lock in the handler, the second could wait for the first forever."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED_AT_EVERY_CALL], capture_output=True, timeout=PATIENCE, check=True
    )
    assert ended.stdout == b"True\n"


def test_a_factory_that_was_changed_after_it_was_loaded_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a module that it imports, wherever that lies."""
    monkeypatch.setattr(child, "_loaded", {})
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {
        "mended_factory": "import mended_data\ndef workload(): ...\n",
        "mended_data": "ROWS = 1\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    try:
        find_factory("mended_factory:workload", allowed=("mended_factory",))
        assert not child.code_has_changed()
        (tmp_path / "mended_data.py").write_text("ROWS = 100\n")
        assert child.code_has_changed()
        child.note_loaded_code()  # what is loaded stays what it was
        assert child.code_has_changed()
        (tmp_path / "mended_data.py").unlink()
        assert child.code_has_changed()
    finally:
        for name in ("mended_factory", "mended_data"):
            sys.modules.pop(name, None)


def test_a_child_that_has_just_ended_does_not_keep_the_stop_signal_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(PATIENCE)
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(child, "active_children", lambda: [ended, running])
    child.stop_children()
    assert running.wait(PATIENCE) == -signal.SIGTERM
