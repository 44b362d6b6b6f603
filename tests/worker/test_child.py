import subprocess
import sys

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
    child = subprocess.run([sys.executable, "-c", SIGNALLED_AT_EVERY_CALL], capture_output=True, timeout=60, check=True)
    assert child.stdout == b"True\n"
