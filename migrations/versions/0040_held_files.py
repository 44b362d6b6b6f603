"""Files that become a model's once a version is approved

Revision: 0040, after 0039
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_versions", sa.Column("held_files", JSONB(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("model_versions", "held_files")
