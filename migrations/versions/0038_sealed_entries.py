"""What opens the entries of requests in the log may be sealed under the sample key

Revision: 0038, after 0037
"""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("log_openings", sa.Column("sealed", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    # The version before would give them out as they are, which prove nothing.
    op.execute("DELETE FROM log_openings WHERE sealed")
    op.drop_column("log_openings", "sealed")
