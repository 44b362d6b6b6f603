"""What is unserved by law: dismissals of requests, and how often a job has failed

Revision: 0017, after 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

UNSERVED = "dismissed_at IS NULL AND (finished_at IS NULL OR state IN ('failed', 'cancelled'))"


def upgrade() -> None:
    op.add_column("unlearn_requests", sa.Column("dismissed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("unlearn_requests", sa.Column("dismissed_by", sa.Text(), nullable=True))
    op.add_column("unlearn_requests", sa.Column("dismissal_reason", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_unlearn_requests_dismissal"),
        "unlearn_requests",
        "num_nonnulls(dismissed_at, dismissed_by, dismissal_reason) IN (0, 3)",
        postgresql_not_valid=True,
    )
    op.add_column("jobs", sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_index(
        "ix_unlearn_requests_unserved_due_at", "unlearn_requests", ["due_at"], postgresql_where=sa.text(UNSERVED)
    )
    op.drop_index("ix_unlearn_requests_open_due_at", "unlearn_requests")


def downgrade() -> None:
    op.create_index(
        "ix_unlearn_requests_open_due_at",
        "unlearn_requests",
        ["due_at"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.drop_index("ix_unlearn_requests_unserved_due_at", "unlearn_requests")
    op.drop_column("jobs", "failures")
    op.drop_constraint(op.f("ck_unlearn_requests_dismissal"), "unlearn_requests")
    for column in ("dismissal_reason", "dismissed_by", "dismissed_at"):
        op.drop_column("unlearn_requests", column)
