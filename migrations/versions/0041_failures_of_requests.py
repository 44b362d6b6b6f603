"""How often a request has failed, and how often late

Revision: 0041, after 0040
"""

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

COLUMNS = ("failures", "late_failures")


COUNTS = "count(*) AS times, count(*) FILTER (WHERE events.at > due_at) AS late"
"""The timeline keeps every failure, also of a request that was retried or withdrawn since."""


def upgrade() -> None:
    connection = op.get_bind()
    began = connection.scalar(sa.text("SELECT clock_timestamp()"))
    # It reads all events, so it comes before the table of requests is locked.
    counted = (
        f"SELECT request_id, {COUNTS} FROM events JOIN unlearn_requests ON unlearn_requests.id = request_id "
        "WHERE kind = 'request.failed' GROUP BY request_id"
    )
    found = {request_id: (times, late) for request_id, times, late in connection.execute(sa.text(counted))}
    for name in COLUMNS:
        op.add_column("unlearn_requests", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))
    # A request that has failed since is open again or ended since; an index leads to its events.
    recounted = (
        f"SELECT id, times, late FROM unlearn_requests, LATERAL (SELECT {COUNTS} FROM events "
        "WHERE request_id = unlearn_requests.id AND kind = 'request.failed' OFFSET 0) found "
        "WHERE finished_at IS NULL OR finished_at > :began - interval '1 hour'"
    )
    recent = connection.execute(sa.text(recounted), {"began": began})
    found |= {request_id: (times, late) for request_id, times, late in recent}
    if found:
        values = "unnest(:ids) AS id, unnest(:times) AS times, unnest(:late) AS late"
        update = sa.text(
            f"UPDATE unlearn_requests SET failures = found.times, late_failures = found.late FROM (SELECT {values}) found "
            "WHERE found.id = unlearn_requests.id"
        )
        times, late = zip(*found.values(), strict=True)
        connection.execute(update, {"ids": [*found], "times": [*times], "late": [*late]})


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("unlearn_requests", name)
