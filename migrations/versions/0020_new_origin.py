"""The log may get a new origin after a restore, in a transaction that says so

Revision: 0020, after 0019
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

ASKED = "current_setting('expunge.new_origin', true) IS DISTINCT FROM 'on'"


def _only_grows(origin: str) -> None:
    op.execute("DROP TRIGGER only_grows ON log_head")
    op.execute(
        "CREATE TRIGGER only_grows BEFORE UPDATE ON log_head FOR EACH ROW "
        f"WHEN (NEW.size <= OLD.size OR {origin}) EXECUTE FUNCTION refuse_change()"
    )


def upgrade() -> None:
    _only_grows(f"(NEW.origin <> OLD.origin AND {ASKED})")


def downgrade() -> None:
    _only_grows("NEW.origin <> OLD.origin")
