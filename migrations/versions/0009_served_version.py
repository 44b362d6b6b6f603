"""The served version of a model, and the training samples of later versions

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SUBJECT = "ck_events_subject"


def upgrade() -> None:
    op.create_table(
        "version_samples",
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_version_samples_version_id")),
        sa.PrimaryKeyConstraint("version_id", "digest", name=op.f("pk_version_samples")),
    )
    op.add_column(
        "training_samples", sa.Column("in_first", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.add_column(
        "models", sa.Column("trained_on_erased", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("models", sa.Column("served_version_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_models_served_version_id"), "models", "model_versions", ["served_version_id"], ["id"]
    )
    # So far the newest version was served.
    op.execute(
        "UPDATE models SET served_version_id = (SELECT id FROM model_versions WHERE model_id = models.id "
        "ORDER BY number DESC LIMIT 1)"
    )
    op.add_column("events", sa.Column("model_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_events_model_id"), "events", "models", ["model_id"], ["id"])
    op.create_index(
        "ix_events_model_id_id", "events", ["model_id", "id"], postgresql_where=sa.text("model_id IS NOT NULL")
    )
    op.drop_constraint(op.f(SUBJECT), "events")
    op.create_check_constraint(
        op.f(SUBJECT), "events", "num_nonnulls(job_id, request_id, model_id) = 1", postgresql_not_valid=True
    )


def downgrade() -> None:
    op.execute("DELETE FROM events WHERE model_id IS NOT NULL")
    op.drop_constraint(op.f(SUBJECT), "events")
    op.create_check_constraint(
        op.f(SUBJECT), "events", "num_nonnulls(job_id, request_id) = 1", postgresql_not_valid=True
    )
    op.drop_column("events", "model_id")
    op.drop_constraint(op.f("fk_models_served_version_id"), "models")
    op.drop_column("models", "served_version_id")
    op.drop_column("models", "trained_on_erased")
    op.drop_column("training_samples", "in_first")
    op.drop_table("version_samples")
