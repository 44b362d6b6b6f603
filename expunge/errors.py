"""Errors that the command line prints without a traceback: these, and those of the operating system (`explain`).

ExpungeError
├── StackError              the embedded stack
│   ├── FolderInUse         another stack runs on the data folder
│   └── StartFailed
├── CannotTrain             operator commands
├── CannotRegister
├── CannotTune
├── CannotAudit
├── CannotPrepare
├── NobodyLeftOut
├── CannotImport
├── KeyCommandRefused
├── CopiesRefused
├── SigningRefused
├── CannotPull
├── RestoreRefused
├── NoSheet
├── CannotWrite             a command's result cannot be written to a file
├── LogNotProven            the auditor's check of the log
├── DemoFailed
├── JobFailed
└── ServiceError            the HTTP API
    ├── ServiceUnreachable
    └── Refused
"""

import errno
from collections.abc import Iterator, Mapping

REMEDIES = {
    errno.ENOSPC: "Make room on the disk.",
    errno.EDQUOT: "Make room within the quota.",
    errno.EACCES: "Let this user read and write there, or name another place.",
    errno.EPERM: "Let this user read and write there, or name another place.",
    **dict.fromkeys((errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "Name another place."),
}
"""What to do about an error of the operating system, by its number."""


def explain(error: OSError) -> str:
    """Say in a line what an error of the operating system or of a storage is about, and what to do."""
    if error.errno is None or error.strerror is None:  # of a storage: its message says all
        return str(error) or type(error).__name__
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{error.strerror}. {REMEDIES.get(error.errno, '')}".rstrip()


class ExpungeError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class StackError(ExpungeError):
    """The embedded stack could not start or continue, or no stack runs where a command needs one."""


class FolderInUse(StackError):
    """Another stack runs on this data folder."""


class StartFailed(StackError):
    """A part of the stack ended or was not ready in time. The message has the tail of its log."""


class CannotTrain(ExpungeError):
    """The workload cannot be loaded, or its models cannot be trained. The message says why, and what was written."""


class CannotRegister(ExpungeError):
    """A registration, or a change of a model's policy, was refused and nothing was written. The message says why."""


class CannotTune(ExpungeError):
    """A search for parameters could not begin. The message says why."""


class CannotAudit(ExpungeError):
    """The files to audit do not match. The message says which."""


class CannotPrepare(ExpungeError):
    """The reference predictions cannot be prepared; nothing was registered. The message says why."""


class NobodyLeftOut(ExpungeError):
    """None of the sample IDs that a training is to leave out is in its training set. Nothing was trained or registered."""


class CannotImport(ExpungeError):
    """A table of subjects and samples cannot be read; nothing was written. The message names the line, and quotes nothing of it."""


class KeyCommandRefused(ExpungeError):
    """No key was created or revoked. The message says which scopes or keys exist."""


class SigningRefused(ExpungeError):
    """The weights of a model's versions cannot be signed. What was signed before stays signed."""


class CopiesRefused(ExpungeError):
    """The copies of a model cannot be listed."""


class CannotPull(ExpungeError):
    """The pending requests of a platform cannot be read, or a result cannot be sent. The next pull goes on."""


class RestoreRefused(ExpungeError):
    """The database holds nothing that a restore could continue. Nothing was changed."""


class NoSheet(ExpungeError):
    """There is no operator's sheet of a report, or it cannot be read."""


class CannotWrite(ExpungeError):
    """A command's result cannot be written to the file that was named for it."""


class LogNotProven(ExpungeError):
    """The service's log is not proven to have only grown."""


class DemoFailed(ExpungeError):
    """A step of the demo failed and everything was stopped. The message has the tail of a log."""


class JobFailed(ExpungeError):
    """A job ended without a result."""


class ServiceError(ExpungeError):
    """The HTTP API did not do what the call asked."""


class ServiceUnreachable(ServiceError):
    """Nothing answered at the given address."""


class Refused(ServiceError):
    """The API answered with an RFC 9457 problem.

    status: the HTTP status. problem: the whole problem document.
    """

    def __init__(self, status: int, problem: Mapping[str, object]) -> None:
        title, detail = str(problem.get("title", "refused")), problem.get("detail")
        super().__init__(f"{status} {title}" + (f": {detail}" if detail else "") + "".join(_faults(problem)))
        self.status = status
        self.problem = dict(problem)


def _faults(problem: Mapping[str, object]) -> Iterator[str]:
    """Yield a line for each of a problem's `errors`: where in the request the fault is, and what it is."""
    listed = problem.get("errors")
    for fault in listed if isinstance(listed, list) else []:
        if isinstance(fault, Mapping):
            place = fault.get("pointer") or fault.get("name")
            yield f"\n- {place}: {fault.get('detail')}" if place else f"\n- {fault.get('detail')}"
