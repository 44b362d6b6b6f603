"""Panels that several dashboards start with: running and failed jobs, and the next deadline."""

from ops.grafana.panels import Builder, number


def jobs_running() -> Builder:
    """Show how many jobs workers run."""
    return number("Jobs running", "Jobs that a worker runs.", "expunge:jobs_held:sum")


def failed_jobs() -> Builder:
    """Show how many jobs need a retry."""
    return number(
        "Failed jobs",
        "They ended and left requests unserved: retry them, or withdraw or dismiss the requests.",
        'sum(expunge_jobs_unserved{tenant=~"$tenant"})',
        bad_from=0.5,
    )


def next_deadline() -> Builder:
    """Show the time until the next legal deadline."""
    return number(
        "Next deadline in",
        "Until the first unserved request is due, of all tenants.",
        "expunge_earliest_deadline_timestamp_seconds - time()",
        unit="s",
    )
