"""Who may call, and which calls were made before."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from ledger.tables.base import Base, Created, Key, Sha256


class Tenant(Base):
    """Who owns keys, datasets, models and requests; tenants never see one another."""

    __tablename__ = "tenants"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[Created]


class ApiKey(Base):
    """A caller's key: found by its prefix, checked against the hash of its secret."""

    __tablename__ = "api_keys"
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """Which request a caller's idempotency key stands for, for thirty days."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[Sha256]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("unlearn_requests.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
