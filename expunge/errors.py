"""What can go wrong in the command line and the embedded stack.

ExpungeError
├── StackError              the embedded stack
│   ├── FolderInUse         another stack runs on this data folder
│   └── StartFailed         a part did not become ready; carries the tail of its log
├── CannotRegister          the operator's registration was refused, with the reason
├── CannotTune              a search for a method's parameters could not begin, with the reason
├── CannotAudit             what was to be audited does not fit together, with the reason
├── KeyCommandRefused       there is no such scope or no such API key
├── LogNotProven            the log is not what it was, or not signed by the key that was given
├── DemoFailed              a step of the demo failed; carries the tail of its log
├── JobFailed               a job that was followed ended without a result
└── ServiceError            the HTTP API answered with a problem
    ├── ServiceUnreachable  nothing answered at that address
    └── Refused             an RFC 9457 problem
"""

from collections.abc import Mapping


class ExpungeError(Exception):
    """The base of every error that the command line shows without a traceback."""


class StackError(ExpungeError):
    """The embedded stack could not start or go on."""


class FolderInUse(StackError):
    """Another stack runs on this data folder."""


class StartFailed(StackError):
    """A part of the stack did not become ready in time, or ended."""


class KeyCommandRefused(ExpungeError):
    """No API key was made or revoked; the message says what exists."""


class CannotTune(ExpungeError):
    """A search for a method's parameters could not begin; the message says why."""


class CannotAudit(ExpungeError):
    """What was to be audited does not fit together; the message says what."""


class CannotRegister(ExpungeError):
    """A registration was refused; nothing was written."""


class LogNotProven(ExpungeError):
    """The service's log is not proven to have only grown."""


class DemoFailed(ExpungeError):
    """A step of the demo failed; everything was stopped."""


class JobFailed(ExpungeError):
    """A job that was followed ended without a result."""


class ServiceError(ExpungeError):
    """The HTTP API did not do what was asked."""


class ServiceUnreachable(ServiceError):
    """Nothing answered at the given address."""


class Refused(ServiceError):
    """The API answered with an RFC 9457 problem.

    `status` is the HTTP status, `problem` the whole problem document.
    """

    def __init__(self, status: int, problem: Mapping[str, object]) -> None:
        title, detail = str(problem.get("title", "refused")), problem.get("detail")
        super().__init__(f"{status} {title}" + (f": {detail}" if detail else ""))
        self.status = status
        self.problem = dict(problem)
