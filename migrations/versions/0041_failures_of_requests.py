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


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("unlearn_requests", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))
    # The timeline keeps every failure, also of a request that was retried or withdrawn since.
    op.execute(
        "UPDATE unlearn_requests SET failures = found.times, late_failures = found.late FROM ("
        "SELECT request_id, count(*) AS times, count(*) FILTER (WHERE events.at > due_at) AS late "
        "FROM events JOIN unlearn_requests ON unlearn_requests.id = request_id "
        "WHERE kind = 'request.failed' GROUP BY request_id) found WHERE found.request_id = unlearn_requests.id"
    )


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("unlearn_requests", name)
