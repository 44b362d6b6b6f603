"""What is to be sent once the transaction that announces it has committed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Identity, func
from sqlalchemy.orm import Mapped, mapped_column

from ledger.tables.base import Base, Created


class OutboxEntry(Base):
    """A job to wake. Gone once the broker has the message; until then it is sent again from `available_at` on."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), unique=True)
    available_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
    created_at: Mapped[Created]
