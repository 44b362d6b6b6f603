"""Figures that more than one dashboard begins with: what is owed, and who is at work on it."""

from ops.grafana.panels import Builder, number


def jobs_running() -> Builder:
    """How many jobs workers hold."""
    return number("Jobs running", "Jobs that a worker holds.", "expunge:jobs_held:sum")


def failed_jobs() -> Builder:
    """How many jobs somebody has to look at."""
    return number(
        "Failed jobs",
        "They wait for a retry; their requests are not served.",
        'sum(expunge_jobs{state="failed"})',
        bad_from=1,
    )


def next_deadline() -> Builder:
    """The time that is left by law."""
    return number(
        "Next deadline in",
        "Until the first open request is due.",
        "expunge_earliest_deadline_timestamp_seconds - time()",
        unit="s",
    )
