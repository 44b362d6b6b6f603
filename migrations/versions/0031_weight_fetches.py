"""Who fetched the weights of a version

Revision: 0031, after 0030
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "weight_fetches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_weight_fetches_version_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_weight_fetches_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_weight_fetches")),
    )
    op.create_index(op.f("ix_weight_fetches_version_id"), "weight_fetches", ["version_id"])


def downgrade() -> None:
    op.drop_table("weight_fetches")
