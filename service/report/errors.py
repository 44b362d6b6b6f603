"""What can be wrong with a report.

ReportError
└── InvalidReport    what is stored is not a report of this schema: ours to fix, never the caller's
"""


class ReportError(Exception):
    """Base of the errors of this package."""


class InvalidReport(ReportError):
    """The JSON does not follow the report's schema; `faults` has a line each: JSON pointer, what is wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"not a valid report: {len(faults)} faults, the first ones: {'; '.join(faults[:5])}")
        self.faults = faults
