"""The public halves of the keys that sign statements and checkpoints."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.tables.base import Base, Created


class SigningKey(Base):
    """A public key, PEM, by the SHA-256 of its DER form. The private half is never here."""

    __tablename__ = "signing_keys"
    __table_args__ = (
        CheckConstraint("key_id ~ '^[0-9a-f]{64}$'", name="key_id"),
        CheckConstraint("(revoked_at IS NULL) = (revocation_reason IS NULL)", name="revocation"),
    )
    key_id: Mapped[str] = mapped_column(Text, primary_key=True)
    public_key: Mapped[str]
    created_at: Mapped[Created]
    revoked_at: Mapped[datetime | None]
    revocation_reason: Mapped[str | None]
