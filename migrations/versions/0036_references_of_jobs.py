"""Jobs of Transcend are found by their body, and their references say nothing of the person

Revision: 0036, after 0035
"""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

INDEX = "ix_managed_requests_tenant_id_manager_body_sha256"


def upgrade() -> None:
    op.create_index(op.f(INDEX), "managed_requests", ["tenant_id", "manager", "body_sha256"])
    # The reference ended in 16 digits of the keyed hash of the person. One whose result is not sent yet stays, because the nonce
    # is sealed under it.
    op.execute(
        "WITH renamed AS (UPDATE managed_requests SET reference = split_part(reference, '.', 1) || '.' || "
        "left(replace(gen_random_uuid()::text, '-', ''), 12) || right(gen_random_uuid()::text, 4) "
        "WHERE manager = 'transcend.io' AND reply IS NULL RETURNING request_id, reference) "
        "UPDATE unlearn_requests SET external_id = renamed.reference FROM renamed WHERE id = renamed.request_id"
    )


def downgrade() -> None:
    op.drop_index(op.f(INDEX), "managed_requests")
