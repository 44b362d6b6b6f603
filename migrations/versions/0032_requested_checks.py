"""Checks that connected systems ask for

Revision: 0032, after 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    op.create_table(
        "requested_checks",
        sa.Column("connector", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("received_at", at, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("taken_at", at, nullable=True),
        sa.PrimaryKeyConstraint("connector", "delivery_id", name=op.f("pk_requested_checks")),
    )
    op.create_index(
        "ix_requested_checks_waiting",
        "requested_checks",
        ["connector"],
        postgresql_where=sa.text("taken_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("requested_checks")
