"""The time zone in which a request was received

Revision: 0021, after 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("unlearn_requests", sa.Column("received_offset", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("unlearn_requests", "received_offset")
