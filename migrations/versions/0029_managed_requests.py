"""Requests from request managers, and endpoints for their status callbacks

Revision: 0029, after 0028
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "managed_requests",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("manager", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("quiet_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("callback_urls", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("reported", sa.String(32), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_managed_requests_tenant_id")),
        sa.ForeignKeyConstraint(["request_id"], ["unlearn_requests.id"], name=op.f("fk_managed_requests_request_id")),
        sa.PrimaryKeyConstraint("tenant_id", "manager", "reference", name=op.f("pk_managed_requests")),
        sa.UniqueConstraint("request_id", name=op.f("uq_managed_requests_request_id")),
        sa.CheckConstraint(
            "reported IN ('pending', 'in_progress', 'completed', 'cancelled')",
            name=op.f("ck_managed_requests_reported"),
        ),
    )
    op.create_index(op.f("ix_managed_requests_reported"), "managed_requests", ["reported"])
    op.add_column(
        "webhook_endpoints",
        sa.Column("protocol", sa.String(32), server_default=sa.text("'standard'"), nullable=False),
    )
    op.create_check_constraint(
        op.f("ck_webhook_endpoints_protocol"),
        "webhook_endpoints",
        "protocol IN ('standard', 'opendsr')",
        postgresql_not_valid=True,
    )
    op.create_index(
        "uq_webhook_endpoints_callback",
        "webhook_endpoints",
        ["tenant_id", "url"],
        unique=True,
        postgresql_where=sa.text("protocol = 'opendsr'"),
    )


def downgrade() -> None:
    op.execute("DELETE FROM webhook_endpoints WHERE protocol <> 'standard'")
    op.drop_column("webhook_endpoints", "protocol")  # takes its check and its index along
    op.drop_table("managed_requests")
