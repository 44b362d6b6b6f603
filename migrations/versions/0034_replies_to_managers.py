"""What a request manager wants back with the result

Revision: 0034, after 0033
"""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("managed_requests", sa.Column("reply", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("managed_requests", "reply")
