import subprocess
import sys

TOLD_AGAIN_AT_EVERY_CALL = """
import signal, sys
from worker.child import stoppable, stopping

with stoppable():
    sys.setprofile(lambda frame, event, argument: signal.raise_signal(signal.SIGTERM))
    signal.raise_signal(signal.SIGTERM)
    sys.setprofile(None)
print("stops" if stopping.is_set else "was not told")
"""


def test_a_child_that_is_told_to_stop_again_while_it_is_being_told_does_not_hang() -> None:
    """A parent passes on every SIGTERM that it gets; with a lock in the handler, the second could wait for the first forever."""
    told = subprocess.run([sys.executable, "-c", TOLD_AGAIN_AT_EVERY_CALL], capture_output=True, timeout=60, check=True)
    assert told.stdout == b"stops\n"
