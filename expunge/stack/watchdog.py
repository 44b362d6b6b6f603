"""Start a program that does not outlive its parent: `python tether.py PARENT_PID SIGNAL [USER] -- COMMAND...`.

Run as a file, not imported, so that nothing happens between a fork and an exec in a parent that may hold threads
and locks of its own (torch does). Linux only tells a child about its parent's death (PR_SET_PDEATHSIG); elsewhere the
program simply starts. USER, for a server that refuses to run as root, is switched to first: doing so clears the tie.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(user: str) -> None:
    """Drop every privilege of the current user for those of `user`."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def tie(parent: int, number: signal.Signals) -> None:
    """Receive `number` when the process `parent`, which must be the direct parent, ends."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # It ended before the tie was made.
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Tie this process and become the command."""
    split = arguments.index("--")
    (parent, name, *user), command = arguments[:split], arguments[split + 1 :]
    if user:
        become(user[0])
    tie(int(parent), signal.Signals[name])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
