"""Panels that several dashboards start with: running and failed jobs, and the next deadline."""

from ops.grafana.panels import Builder, number


def jobs_running() -> Builder:
    """Show how many jobs workers run."""
    return number("Jobs running", "Jobs that a worker runs.", "expunge:jobs_held:sum")


def failed_jobs() -> Builder:
    """Show how many jobs need a retry."""
    return number(
        "Failed jobs",
        "They wait for a retry; their requests are not served.",
        'sum(expunge_jobs{state="failed"})',
        bad_from=1,
    )


def next_deadline() -> Builder:
    """Show the time until the next legal deadline."""
    return number(
        "Next deadline in",
        "Until the first open request is due.",
        "expunge_earliest_deadline_timestamp_seconds - time()",
        unit="s",
    )
