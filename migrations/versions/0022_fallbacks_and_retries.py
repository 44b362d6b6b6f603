"""Fallbacks, waits before a retry, and versions that are held for the accuracy that they lost

Revision: 0022, after 0021
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

BEFORE = (
    "'worker_lost', 'out_of_memory', 'gpu_lost', 'disk_full', 'weights_missing', 'weights_damaged', 'workload_failed', "
    "'method_refused', 'audit_failed', 'attempts_exhausted', 'cancelled_by_caller', 'approval_refused', 'superseded', "
    "'already_erased', 'not_in_training_set', 'signing_failed', 'unexpected'"
)
NEW = ("method_failed", "stalled", "utility_drop")
TABLES = ("jobs", "targets", "attempts")


def _allow(reasons: str) -> None:
    for table in TABLES:
        op.drop_constraint(op.f(f"ck_{table}_reason"), table)
        op.create_check_constraint(
            op.f(f"ck_{table}_reason"), table, f"reason IN ({reasons})", postgresql_not_valid=True
        )


def upgrade() -> None:
    after = BEFORE.replace("'audit_failed'", "'method_failed', 'stalled', 'audit_failed'")
    _allow(after.replace("'approval_refused'", "'utility_drop', 'approval_refused'"))
    op.add_column(
        "models", sa.Column("approve_utility_drop", sa.Float(), server_default=sa.text("2.0"), nullable=False)
    )
    op.create_check_constraint(
        op.f("ck_models_approve_utility_drop"),
        "models",
        "approve_utility_drop BETWEEN 0 AND 100",
        postgresql_not_valid=True,
    )
    op.add_column("jobs", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("furthest_step", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("fallback", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    for name in ("fallback", "furthest_step", "retry_at"):
        op.drop_column("jobs", name)
    op.drop_constraint(op.f("ck_models_approve_utility_drop"), "models")
    op.drop_column("models", "approve_utility_drop")
    for table in TABLES:
        op.execute(
            f"UPDATE {table} SET reason = 'unexpected' WHERE reason IN ({', '.join(repr(name) for name in NEW)})"
        )
    _allow(BEFORE)
