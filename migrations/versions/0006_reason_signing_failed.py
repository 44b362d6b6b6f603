"""The reason signing_failed

Revision: 0006, after 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("jobs", "targets", "attempts")
BEFORE = (
    "worker_lost",
    "out_of_memory",
    "disk_full",
    "weights_missing",
    "weights_damaged",
    "workload_failed",
    "method_refused",
    "audit_failed",
    "attempts_exhausted",
    "cancelled_by_caller",
    "superseded",
    "already_erased",
    "not_in_training_set",
    "unexpected",
)


def _allow(reasons: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{reason}'" for reason in reasons)
    for table in TABLES:
        op.drop_constraint(op.f(f"ck_{table}_reason"), table)
        op.create_check_constraint(
            op.f(f"ck_{table}_reason"), table, f"reason IN ({listed})", postgresql_not_valid=True
        )


def upgrade() -> None:
    _allow((*BEFORE[:-1], "signing_failed", "unexpected"))


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"UPDATE {table} SET reason = 'unexpected' WHERE reason = 'signing_failed'")
    _allow(BEFORE)
