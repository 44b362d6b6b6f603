"""The samples of each subject

Revision: 0025, after 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subject_samples",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "dataset_id", "digest", name=op.f("pk_subject_samples")),
    )
    op.add_column("datasets", sa.Column("subject_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.drop_column("datasets", "subject_count")
    op.drop_table("subject_samples")
