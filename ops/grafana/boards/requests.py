"""The dashboard of requests and deadlines."""

from ops.grafana.panels import (
    Rows,
    coloured,
    failed_jobs,
    graph,
    jobs_running,
    listing,
    mean,
    next_deadline,
    number,
    spread,
)

OPEN = 'state=~"received|scheduled|running|verifying"'
UNSERVED = 'expunge_requests_unserved{tenant=~"$tenant", due="%s"}'
UNSERVED_FAILED = 'expunge_requests_unserved{tenant=~"$tenant", state="failed"}'
DUE = {"overdue": "overdue", "within_72h": "within 72 hours", "within_7d": "within 7 days", "later": "later"}
DUE_COLOURS = {"overdue": "red", "within 72 hours": "orange", "within 7 days": "yellow", "later": "green"}


def requests() -> Rows:
    """Open requests, deadlines and queues."""
    completion, wait = "expunge_request_completion_seconds", "expunge_queue_wait_seconds"
    within = f'sum(increase({completion}_bucket{{le="2.592e+06"}}[$window]))'
    return {
        "Now": [
            number(
                "Overdue requests",
                "Unserved past their legal deadline: neither served nor withdrawn nor dismissed.",
                f"sum({UNSERVED % 'overdue'})",
                bad_from=0.5,
            ),
            next_deadline(),
            number("Open requests", "Received and not ended.", f"sum(expunge_requests{{{OPEN}}})"),
            jobs_running(),
            failed_jobs(),
            number(
                "Ended late",
                "Requests that ended after their deadline, in the window.",
                "sum(increase(expunge_requests_finished_late_total[$window]))",
                bad_from=0.5,
            ),
        ],
        "Deadlines": [
            coloured(
                graph(
                    "Burn-down of unserved requests",
                    "By when they are due. Each request counts once, until it is served, withdrawn or dismissed.",
                    *((f"sum({UNSERVED % due})", legend) for due, legend in DUE.items()),
                    unit="none",
                    stacked=True,
                ),
                DUE_COLOURS,
            ),
            listing(
                "Unserved requests by tenant",
                "Now. Requests that failed are among them.",
                *((f"sum by (tenant) ({UNSERVED % due})", legend) for due, legend in DUE.items()),
                (f"sum by (tenant) ({UNSERVED_FAILED})", "failed"),
            ),
        ],
        "Requests": [
            graph(
                "Open requests by state",
                "A request has the state of its least advanced target.",
                (f"sum by (state) (expunge_requests{{{OPEN}}})", "{{state}}"),
                unit="none",
            ),
            graph(
                "Received and finished",
                "In the window.",
                ("sum(increase(expunge_requests_received_total[$window]))", "received"),
                ("sum by (outcome) (increase(expunge_requests_finished_total[$window]))", "{{outcome}}"),
                ("sum(increase(expunge_requests_finished_late_total[$window]))", "late"),
                unit="none",
            ),
            graph(
                "From receipt to completion",
                "The law counts from receipt. Estimated from buckets whose bounds are the legal limits.",
                *spread(completion),
                unit="s",
            ),
            graph(
                "Completed within 30 days",
                "Share of the completed requests of the window.",
                (
                    f"{within} / (sum(increase({completion}_count[$window])) > 0)",
                    "within 30 days",
                ),
                unit="percentunit",
                top=1,
            ),
        ],
        "Jobs": [
            graph(
                "Open and failed jobs by state",
                "Queued jobs wait for their closing time, their model or a worker; failed ones wait for a retry.",
                (
                    'sum by (state) (expunge_jobs{state=~"queued|awaiting_approval|running|verifying|failed"})',
                    "{{state}}",
                ),
                unit="none",
            ),
            graph(
                "Wait for a worker",
                "From a job's opening to its start; its batching window is part of it.",
                *spread(wait),
                unit="s",
            ),
            graph(
                "Requests that a job serves",
                "Mean over the window: how many requests share a job.",
                (mean("expunge_job_requests"), "requests"),
                unit="none",
            ),
            graph(
                "Waiting for approval",
                "Jobs that wait for a decision: to run, or to have their version served. Deadlines do not wait.",
                ("sum by (what) (expunge_jobs_awaiting_approval)", "{{what}}"),
                unit="none",
            ),
        ],
    }
