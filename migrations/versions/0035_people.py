"""Whose samples a request means, requests for every model, the sample key, commitments to people, and sealed salts

Revision: 0035, after 0034
"""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_subject_samples",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "subject", "digest", name=op.f("pk_request_subject_samples")),
    )
    # Of earlier requests what is still assigned: what was replaced since is not known.
    op.execute(
        "INSERT INTO request_subject_samples SELECT named.request_id, named.subject, owned.digest FROM request_subjects named "
        "JOIN subject_samples owned ON owned.subject = named.subject "
        "JOIN request_samples asked ON asked.request_id = named.request_id AND asked.digest = owned.digest "
        "ON CONFLICT DO NOTHING"
    )
    op.add_column(
        "unlearn_requests", sa.Column("every_model", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_table(
        "sample_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_sample_keys_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample_keys")),
    )
    op.create_table(
        "subject_leaves",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=True),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("(subject IS NULL) = (salt IS NULL)", name=op.f("ck_subject_leaves_opening")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_subject_leaves_job_id")),
        sa.PrimaryKeyConstraint("job_id", "place", name=op.f("pk_subject_leaves")),
    )
    op.create_index("uq_subject_leaves_job_id_subject", "subject_leaves", ["job_id", "subject"], unique=True)
    op.add_column("manifest_leaves", sa.Column("sealed", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("request_subjects", sa.Column("commitment", sa.LargeBinary(), nullable=True))
    op.add_column("uploaded_samples", sa.Column("commitment", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("uploaded_samples", "commitment")
    op.drop_column("request_subjects", "commitment")
    # A sealed salt looks like another salt to the version before: its proofs would prove nothing.
    op.execute("UPDATE manifest_leaves SET digest = NULL, salt = NULL WHERE sealed")
    op.drop_column("manifest_leaves", "sealed")
    op.drop_table("subject_leaves")
    op.drop_table("sample_keys")
    op.drop_column("unlearn_requests", "every_model")
    op.drop_table("request_subject_samples")
