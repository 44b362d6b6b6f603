"""What a heartbeat has measured, and which versions know people who were erased since

Revision: 0018, after 0017
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

KNOWING = """
WITH RECURSIVE line (version_id, ancestor_id) AS (
    SELECT id, id FROM model_versions WHERE purged_at IS NULL
    UNION ALL
    SELECT line.version_id, jobs.base_version_id
    FROM line JOIN model_versions v ON v.id = line.ancestor_id JOIN jobs ON jobs.id = v.job_id
)
UPDATE model_versions v SET knows_erased = true
FROM line JOIN model_versions trained ON trained.id = line.ancestor_id AND trained.job_id IS NULL
WHERE line.version_id = v.id AND EXISTS (
    SELECT 1 FROM erased_samples e
    WHERE e.model_id = v.model_id
    AND NOT EXISTS (SELECT 1 FROM line mine WHERE mine.version_id = v.id AND mine.ancestor_id = e.version_id)
    AND (
        trained.number = 1 AND EXISTS (
            SELECT 1 FROM training_samples s WHERE s.model_id = v.model_id AND s.digest = e.digest AND s.in_first
        )
        OR trained.number > 1 AND EXISTS (
            SELECT 1 FROM version_samples s WHERE s.version_id = trained.id AND s.digest = e.digest
        )
    )
)
"""
"""A version knows what its training knew, without what was erased along its lineage (ledger/registry/lineage.py)."""


def upgrade() -> None:
    op.add_column("heartbeats", sa.Column("details", postgresql.JSONB(), nullable=True))
    op.add_column(
        "model_versions", sa.Column("knows_erased", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute(KNOWING)


def downgrade() -> None:
    op.drop_column("model_versions", "knows_erased")
    op.drop_column("heartbeats", "details")
