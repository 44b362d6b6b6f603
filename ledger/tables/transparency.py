"""The append-only log, a Merkle tree (RFC 6962) in rows, and the signing keys. Triggers refuse any change to the log but growth."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ledger.tables.base import Base, Created


class LogHead(Base):
    """The one row with the size of the tree. A transaction that places leaves locks it."""

    __tablename__ = "log_head"
    __table_args__ = (CheckConstraint("id = 1 AND size >= 0", name="one"),)
    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    origin: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    # The hashes of the complete subtrees that make up the tree, the largest first.
    peaks: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary))


class LogLeaf(Base):
    """The leaf of an entry: its kind, time and commitment, as the bytes that were hashed. `index` is set a little later."""

    __tablename__ = "log_leaves"
    __table_args__ = (Index("ix_log_leaves_waiting", "id", postgresql_where=text("index IS NULL")),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    index: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)


class LogNode(Base):
    """The hash of a complete subtree, by its height and its place among those of that height."""

    __tablename__ = "log_nodes"
    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    place: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class LogOpening(Base):
    """The content that a leaf commits to, and the key that proves it. Deleting this row erases the person, not the log."""

    __tablename__ = "log_openings"
    leaf_id: Mapped[int] = mapped_column(ForeignKey("log_leaves.id"), primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    subject_id: Mapped[UUID] = mapped_column(index=True)
    key: Mapped[bytes] = mapped_column(LargeBinary)
    # The JSON exactly as it was hashed, unless it is sealed.
    content: Mapped[str] = mapped_column(Text)
    # Whether a rotation of the sample key has sealed the key, and what the content says of samples and people.
    sealed: Mapped[bool] = mapped_column(server_default=text("false"), default=False)


class LogCheckpoint(Base):
    """The signed tree head of the log at a size."""

    __tablename__ = "log_checkpoints"
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[str]
    created_at: Mapped[Created]


class SigningKey(Base):
    """A public key in PEM, by the SHA-256 of its DER form. The private key is never stored here."""

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
