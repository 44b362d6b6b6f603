"""Hand-overs of model versions to other systems

Revision: 0028, after 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

STATES = ("pending", "delivered", "superseded", "withdrawing", "withdrawn")


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    op.create_table(
        "hand_overs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("connector", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*STATES, name="state", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("since", at, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("next_try_at", at, nullable=True),
        sa.Column("tried_at", at, nullable=True),
        sa.Column("delivered_at", at, nullable=True),
        sa.Column("withdrawn_at", at, nullable=True),
        sa.Column("created_at", at, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint(
            "(state IN ('superseded', 'withdrawn')) = (next_try_at IS NULL)", name=op.f("ck_hand_overs_next_try")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_hand_overs_model_id")),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_hand_overs_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hand_overs")),
    )
    op.create_index("ix_hand_overs_model_id", "hand_overs", ["model_id"])
    op.create_index("ix_hand_overs_version_id", "hand_overs", ["version_id"])
    op.create_index(
        "ix_hand_overs_current",
        "hand_overs",
        ["connector", "model_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('pending', 'delivered')"),
    )
    op.create_index(
        "ix_hand_overs_due",
        "hand_overs",
        ["connector", "next_try_at"],
        postgresql_where=sa.text("next_try_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("hand_overs")
