"""Escalation after an inconclusive verdict, and a number of samples for which a job stays open

Revision: 0023, after 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

VALUES = "'never', 'when_it_can_help', 'always'"


def upgrade() -> None:
    for table in ("models", "jobs"):
        op.add_column(
            table, sa.Column("escalate", sa.String(32), server_default=sa.text("'when_it_can_help'"), nullable=False)
        )
    op.add_column("unlearn_requests", sa.Column("escalate", sa.String(32), nullable=True))
    op.add_column("models", sa.Column("batch_until_samples", sa.Integer(), nullable=True))
    # The new columns hold one value or none: the checks are declared without reading the tables again.
    for table in ("models", "jobs", "unlearn_requests"):
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {op.f(f'ck_{table}_escalate')} CHECK (escalate IN ({VALUES})) NOT VALID"
        )
    op.create_check_constraint(
        op.f("ck_models_batch_until_samples"), "models", "batch_until_samples > 0", postgresql_not_valid=True
    )


def downgrade() -> None:
    op.drop_column("models", "batch_until_samples")
    for table in ("models", "jobs", "unlearn_requests"):
        op.drop_column(table, "escalate")
