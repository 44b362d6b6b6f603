"""What the service itself refuses; what each answers in HTTP, and what the ledger's errors answer, is the table in problems.py.

ServiceError
├── ScopeMissing           the caller's: the key is good, but not for this
├── UnsupportedMediaType   the caller's: the body is not declared as JSON
├── BodyTooLarge           the caller's: more bytes than the operator allows
├── InvalidLine            the caller's: a line of an uploaded list is no sample ID
├── TooManyCalls           the caller's: more calls than its key may make
├── CrossSite              another site's: a form of the console that was not sent from it
└── NotReady               passing: the database or the broker does not answer
"""

from fastapi import HTTPException as FastAPIError


class ServiceError(Exception):
    """Base of all errors that the service raises on purpose; the message goes to the caller as `detail`."""


class ScopeMissing(ServiceError):
    """The key lacks the scope that the call needs; the message names both."""


class UnsupportedMediaType(ServiceError):
    """The body's Content-Type is not JSON."""


class BodyTooLarge(ServiceError, FastAPIError):
    """The body has more bytes than allowed; an HTTPException too, because FastAPI turns any other while reading into 400."""

    def __init__(self, message: str) -> None:
        FastAPIError.__init__(self, 413, message)

    def __str__(self) -> str:
        return str(self.detail)


class InvalidLine(ServiceError):
    """An uploaded list can not be read; the message names the line and nothing that stands on it."""


class TooManyCalls(ServiceError):
    """The key's rate is exceeded; `retry_after` is the seconds after which a call passes again."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CrossSite(ServiceError):
    """A form of the console was sent from another site."""


class NotReady(ServiceError):
    """Something behind the service does not answer; `checks` says what by name."""

    def __init__(self, message: str, *, checks: dict[str, str]) -> None:
        super().__init__(message)
        self.checks = checks
