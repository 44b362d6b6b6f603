"""The reason storage_failed

Revision: 0030, after 0029
"""

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

BEFORE = (
    "'worker_lost', 'out_of_memory', 'gpu_lost', 'disk_full', 'weights_missing', 'weights_damaged', 'workload_failed', "
    "'method_refused', 'method_failed', 'stalled', 'audit_failed', 'attempts_exhausted', 'cancelled_by_caller', 'utility_drop', "
    "'approval_refused', 'superseded', 'already_erased', 'not_in_training_set', 'signing_failed', 'unexpected'"
)
TABLES = ("jobs", "targets", "attempts")


def _allow(reasons: str) -> None:
    for table in TABLES:
        op.drop_constraint(op.f(f"ck_{table}_reason"), table)
        op.create_check_constraint(
            op.f(f"ck_{table}_reason"), table, f"reason IN ({reasons})", postgresql_not_valid=True
        )


def upgrade() -> None:
    _allow(BEFORE.replace("'disk_full'", "'disk_full', 'storage_failed'"))


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"UPDATE {table} SET reason = 'unexpected' WHERE reason = 'storage_failed'")
    _allow(BEFORE)
