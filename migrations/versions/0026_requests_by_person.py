"""Requests by person, over several datasets

Revision: 0026, after 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_subjects",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["unlearn_requests.id"], name=op.f("fk_request_subjects_request_id")),
        sa.PrimaryKeyConstraint("request_id", "subject", name=op.f("pk_request_subjects")),
    )
    op.create_table(
        "request_datasets",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["unlearn_requests.id"], name=op.f("fk_request_datasets_request_id")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_request_datasets_dataset_id")),
        sa.PrimaryKeyConstraint("request_id", "dataset_id", name=op.f("pk_request_datasets")),
    )
    op.add_column(
        "unlearn_requests", sa.Column("every_dataset", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("unlearn_requests", sa.Column("subjects_given", sa.Integer(), nullable=True))
    op.add_column("unlearn_requests", sa.Column("subjects_matched", sa.Integer(), nullable=True))
    op.alter_column("uploaded_manifests", "dataset_id", nullable=True)


def downgrade() -> None:
    op.execute(
        "DELETE FROM uploaded_samples USING uploaded_manifests WHERE uploaded_manifests.id = manifest_id AND dataset_id IS NULL"
    )
    op.execute("DELETE FROM uploaded_manifests WHERE dataset_id IS NULL")
    op.alter_column("uploaded_manifests", "dataset_id", nullable=False)
    for name in ("subjects_matched", "subjects_given", "every_dataset"):
        op.drop_column("unlearn_requests", name)
    op.drop_table("request_datasets")
    op.drop_table("request_subjects")
