"""Uploads of sample IDs

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "uploaded_samples",
        sa.Column("manifest_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("manifest_id", "digest", name=op.f("pk_uploaded_samples")),
    )
    op.create_table(
        "uploaded_manifests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("samples > 0", name=op.f("ck_uploaded_manifests_samples")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_uploaded_manifests_dataset_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_uploaded_manifests_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploaded_manifests")),
    )
    op.create_index(op.f("ix_uploaded_manifests_tenant_id"), "uploaded_manifests", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_uploaded_manifests_tenant_id"), table_name="uploaded_manifests")
    op.drop_table("uploaded_manifests")
    op.drop_table("uploaded_samples")
