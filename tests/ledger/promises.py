"""What must never be in the ledger, whatever has happened: each promise as a query that finds what breaks it."""

from sqlalchemy import text

HOLDS_MODEL = "(state IN ('running', 'verifying') OR state = 'awaiting_approval' AND phase = 'publish')"

NEVER = {
    "two jobs of a model run": f"SELECT model_id FROM jobs WHERE {HOLDS_MODEL} GROUP BY model_id HAVING count(*) > 1",
    "two jobs of a model are open": (
        "SELECT model_id FROM jobs WHERE state = 'queued' AND frozen_at IS NULL GROUP BY model_id HAVING count(*) > 1"
    ),
    "a job has published twice": "SELECT job_id FROM model_versions GROUP BY job_id HAVING count(job_id) > 1",
    "a version has no report, or a report no version": (
        "SELECT 1 FROM model_versions v FULL JOIN reports r ON r.version_id = v.id AND r.job_id = v.job_id "
        "WHERE (v.job_id IS NOT NULL AND r.id IS NULL) OR v.id IS NULL"
    ),
    "a version is missing between two": "SELECT 1 FROM model_versions GROUP BY model_id HAVING count(*) <> max(number)",
    "what was published last is not served": (
        "SELECT 1 FROM models JOIN model_versions served ON served.id = served_version_id "
        "JOIN model_versions newer ON newer.model_id = models.id AND newer.number > served.number "
        "JOIN jobs ON jobs.id = newer.job_id WHERE jobs.state = 'completed'"
    ),
    "an open request waits for nothing": (
        "SELECT 1 FROM unlearn_requests r WHERE finished_at IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM targets JOIN jobs ON jobs.id = job_id WHERE request_id = r.id AND jobs.finished_at IS NULL)"
    ),
    "a sample is called erased and is not": (
        "SELECT 1 FROM targets JOIN request_samples USING (request_id) JOIN training_samples USING (model_id, digest) "
        "LEFT JOIN erased_samples USING (model_id, digest) "
        "WHERE targets.state = 'completed' AND erased_samples.job_id IS NULL"
    ),
    "a closed job lacks a sample that one of its requests asks for": (
        "SELECT 1 FROM targets JOIN request_samples USING (request_id) JOIN training_samples USING (model_id, digest) "
        "JOIN jobs ON jobs.id = targets.job_id LEFT JOIN job_samples s ON s.job_id = jobs.id AND s.digest = "
        "request_samples.digest WHERE frozen_at IS NOT NULL AND s.digest IS NULL"
    ),
    "a sample is erased that no request on the job asked for": (
        "SELECT 1 FROM erased_samples e WHERE NOT EXISTS "
        "(SELECT 1 FROM targets t JOIN request_samples s USING (request_id) WHERE t.job_id = e.job_id AND s.digest = e.digest)"
    ),
    "a job has completed without its result, or has a result and has neither completed nor awaits approval of it": (
        "SELECT 1 FROM jobs LEFT JOIN model_versions v ON v.job_id = jobs.id AND v.refused_at IS NULL "
        "WHERE (state = 'completed' AND reason IS NULL OR state = 'awaiting_approval' AND phase = 'publish') "
        "<> (v.id IS NOT NULL)"
    ),
    "the model is free, a job waits, and nobody will wake it": (
        "SELECT 1 FROM jobs LEFT JOIN outbox ON outbox.job_id = jobs.id WHERE state = 'queued' AND NOT EXISTS "
        f"(SELECT 1 FROM jobs busy WHERE busy.model_id = jobs.model_id AND {HOLDS_MODEL}) "
        "GROUP BY model_id HAVING count(outbox.id) = 0"
    ),
}
"""They hold if nobody promotes a version."""

OPEN_FIRST = ("received", "scheduled", "running", "verifying", "failed", "cancelled", "completed", "rejected")
"""Of a request's targets the first of these is the request's state, by the contract."""


def broken(session):
    """The promises that are broken now, seen through a session or a connection."""
    every = " UNION ALL ".join(f"SELECT '{promise}' WHERE EXISTS ({query})" for promise, query in NEVER.items())
    found = [promise for (promise,) in session.execute(text(every))]
    folded = (
        "SELECT r.state, array_agg(t.state) FROM unlearn_requests r JOIN targets t ON request_id = r.id GROUP BY r.id"
    )
    for state, targets in session.execute(text(folded)):
        if state != min(targets, key=OPEN_FIRST.index):
            found.append("a request is elsewhere than its models")
    return found
