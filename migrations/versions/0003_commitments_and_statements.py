"""Commitments to erased samples, signed statements and signing keys

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "manifest_leaves",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("(digest IS NULL) = (salt IS NULL)", name=op.f("ck_manifest_leaves_opening")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_manifest_leaves_job_id")),
        sa.PrimaryKeyConstraint("job_id", "place", name=op.f("pk_manifest_leaves")),
    )
    op.create_index("uq_manifest_leaves_job_id_digest", "manifest_leaves", ["job_id", "digest"], unique=True)
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revocation_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("key_id ~ '^[0-9a-f]{64}$'", name=op.f("ck_signing_keys_key_id")),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revocation_reason IS NULL)", name=op.f("ck_signing_keys_revocation")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_signing_keys")),
    )
    op.add_column("reports", sa.Column("statement", postgresql.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("reports", "statement")
    op.drop_table("signing_keys")
    op.drop_table("manifest_leaves")
