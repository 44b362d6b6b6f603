"""Approval of jobs and of versions

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

PHASES = "'waiting', 'awaiting_approval', 'load', 'unlearn', 'audit_membership', 'audit_relearn', 'report', 'publish', 'done'"
REASONS = (
    "'worker_lost', 'out_of_memory', 'disk_full', 'weights_missing', 'weights_damaged', 'workload_failed', 'method_refused', "
    "'audit_failed', 'attempts_exhausted', 'cancelled_by_caller', 'approval_refused', 'superseded', 'already_erased', "
    "'not_in_training_set', 'signing_failed', 'unexpected'"
)
LEASED = "(state IN ('running', 'verifying'){unless}) = (lease_until IS NOT NULL)"


def _check(table: str, name: str, condition: str) -> None:
    op.drop_constraint(op.f(f"ck_{table}_{name}"), table)
    op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition, postgresql_not_valid=True)


def upgrade() -> None:
    for name in ("approve_jobs", "approve_versions"):
        op.add_column("models", sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("jobs", sa.Column("approved_by", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("model_versions", sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True))
    _check("jobs", "phase", f"phase IN ({PHASES})")
    _check("jobs", "lease", LEASED.format(unless=" AND phase <> 'awaiting_approval'"))
    for table in ("jobs", "targets", "attempts"):
        _check(table, "reason", f"reason IN ({REASONS})")


def downgrade() -> None:
    # Versions that await approval fail: the version before this one has no approval.
    op.execute(
        "UPDATE jobs SET phase = 'done', state = 'failed', finished_at = clock_timestamp() "
        "WHERE phase = 'awaiting_approval' AND state = 'verifying'"
    )
    op.execute("UPDATE jobs SET phase = 'waiting' WHERE phase = 'awaiting_approval'")
    for table in ("jobs", "targets", "attempts"):
        op.execute(f"UPDATE {table} SET reason = 'cancelled_by_caller' WHERE reason = 'approval_refused'")
        _check(table, "reason", "reason IN ({})".format(REASONS.replace("'approval_refused', ", "")))
    _check("jobs", "lease", LEASED.format(unless=""))
    _check("jobs", "phase", "phase IN ({})".format(PHASES.replace("'awaiting_approval', ", "")))
    op.drop_column("model_versions", "refused_at")
    op.drop_column("jobs", "approved_at")
    op.drop_column("jobs", "approved_by")
    op.drop_column("models", "approve_versions")
    op.drop_column("models", "approve_jobs")
