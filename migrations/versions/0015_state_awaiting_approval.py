"""Awaiting approval is a state of a job

Until now a job that awaited approval was `queued` or `verifying`, with the phase `awaiting_approval`.

Revision: 0015, after 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATES = "'queued', 'awaiting_approval', 'running', 'verifying', 'completed', 'failed', 'cancelled'"
PHASES = "'waiting', 'load', 'unlearn', 'audit_membership', 'audit_relearn', 'report', 'publish', 'done'"
OLD_STATES = STATES.replace("'awaiting_approval', ", "")
OLD_PHASES = PHASES.replace("'waiting'", "'waiting', 'awaiting_approval'")
LEASED = "state IN ('running', 'verifying')"


def _drop_checks(*names: str) -> None:
    for name in names:
        op.drop_constraint(op.f(f"ck_jobs_{name}"), "jobs")


def _create_checks(**conditions: str) -> None:
    for name, condition in conditions.items():
        op.create_check_constraint(op.f(f"ck_jobs_{name}"), "jobs", condition, postgresql_not_valid=True)


def _replace_index(condition: str) -> None:
    op.drop_index("uq_jobs_one_active_a_model", table_name="jobs")
    op.create_index(
        "uq_jobs_one_active_a_model", "jobs", ["model_id"], unique=True, postgresql_where=sa.text(condition)
    )


def upgrade() -> None:
    _drop_checks("state", "phase", "lease")
    op.execute(
        "UPDATE jobs SET state = 'awaiting_approval', "
        "phase = CASE state WHEN 'queued' THEN 'waiting' ELSE 'publish' END WHERE phase = 'awaiting_approval'"
    )
    _create_checks(
        state=f"state IN ({STATES})",
        phase=f"phase IN ({PHASES})",
        lease=f"({LEASED}) = (lease_until IS NOT NULL)",
        approval="state <> 'awaiting_approval' OR phase IN ('waiting', 'publish')",
    )
    _replace_index(f"{LEASED} OR (state = 'awaiting_approval' AND phase = 'publish')")


def downgrade() -> None:
    _drop_checks("state", "phase", "lease", "approval")
    op.execute(
        "UPDATE jobs SET phase = 'awaiting_approval', "
        "state = CASE phase WHEN 'waiting' THEN 'queued' ELSE 'verifying' END WHERE state = 'awaiting_approval'"
    )
    _create_checks(
        state=f"state IN ({OLD_STATES})",
        phase=f"phase IN ({OLD_PHASES})",
        lease=f"({LEASED} AND phase <> 'awaiting_approval') = (lease_until IS NOT NULL)",
    )
    _replace_index(LEASED)
