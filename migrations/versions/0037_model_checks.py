"""What a model lacks that methods may need, and whether a worker can build it

Revision: 0037, after 0036
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("lacks", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("models", sa.Column("check_asked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("models", sa.Column("check_ended_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("models", sa.Column("check_fault", sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("check_fault", "check_ended_at", "check_asked_at", "lacks"):
        op.drop_column("models", column)
