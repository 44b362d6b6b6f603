"""The transparency log

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

APPEND_ONLY = ("log_leaves", "log_nodes", "log_checkpoints", "log_head")
"""Rows of these are never deleted. A leaf gets its place once, the head only grows, and the others never change."""


def upgrade() -> None:
    op.create_table(
        "log_head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("peaks", postgresql.ARRAY(sa.LargeBinary()), nullable=False),
        sa.CheckConstraint("id = 1 AND size >= 0", name=op.f("ck_log_head_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_head")),
    )
    op.create_table(
        "log_leaves",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("index", sa.BigInteger(), nullable=True),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_leaves")),
        sa.UniqueConstraint("index", name=op.f("uq_log_leaves_index")),
        sa.UniqueConstraint("hash", name=op.f("uq_log_leaves_hash")),
    )
    op.create_index("ix_log_leaves_waiting", "log_leaves", ["id"], postgresql_where=sa.text("index IS NULL"))
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("place", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "place", name=op.f("pk_log_nodes")),
    )
    op.create_table(
        "log_openings",
        sa.Column("leaf_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["leaf_id"], ["log_leaves.id"], name=op.f("fk_log_openings_leaf_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_log_openings_tenant_id")),
        sa.PrimaryKeyConstraint("leaf_id", name=op.f("pk_log_openings")),
    )
    op.create_index(op.f("ix_log_openings_subject_id"), "log_openings", ["subject_id"])
    op.create_table(
        "log_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_log_checkpoints")),
    )
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation'; "
        "END $$"
    )
    for table in ("log_nodes", "log_checkpoints"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    op.execute("CREATE TRIGGER stays BEFORE DELETE ON log_leaves FOR EACH ROW EXECUTE FUNCTION refuse_change()")
    op.execute(
        "CREATE TRIGGER only_placed BEFORE UPDATE ON log_leaves FOR EACH ROW "
        "WHEN (OLD.index IS NOT NULL OR NEW.index IS NULL OR NEW.leaf <> OLD.leaf OR NEW.hash <> OLD.hash) "
        "EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER only_grows BEFORE UPDATE ON log_head FOR EACH ROW "
        "WHEN (NEW.size <= OLD.size OR NEW.origin <> OLD.origin) EXECUTE FUNCTION refuse_change()"
    )
    op.execute("CREATE TRIGGER stays BEFORE DELETE ON log_head FOR EACH ROW EXECUTE FUNCTION refuse_change()")
    op.execute(
        "CREATE TRIGGER only_deleted BEFORE UPDATE ON log_openings FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    for table in APPEND_ONLY:
        op.execute(f"CREATE TRIGGER whole BEFORE TRUNCATE ON {table} EXECUTE FUNCTION refuse_change()")


def downgrade() -> None:
    for table in ("log_checkpoints", "log_openings", "log_nodes", "log_leaves", "log_head"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
