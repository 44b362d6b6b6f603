"""Start a program that does not outlive its parent: `python watchdog.py PARENT_PID SIGNAL [USER] -- COMMAND...`.

Run this file as a program; do not import it. The parent may hold threads and locks (torch does), so nothing but `exec` may happen
in the child after the fork. Linux sends the signal when the parent dies (PR_SET_PDEATHSIG); on other systems the program just
starts. USER is for a server that refuses to run as root. Changing the user clears PR_SET_PDEATHSIG, so it comes first.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def switch_user(user: str) -> None:
    """Change to the user and groups of `user`."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def signal_on_parent_death(parent: int, number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when its parent, the process `parent`, dies."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # The parent died before the call.
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Set up the watchdog and replace this process by the command."""
    split = arguments.index("--")
    (parent, name, *user), command = arguments[:split], arguments[split + 1 :]
    if user:
        switch_user(user[0])
    signal_on_parent_death(int(parent), signal.Signals[name])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
