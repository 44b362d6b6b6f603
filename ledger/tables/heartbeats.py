"""What must happen again and again, and when it last did."""

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from ledger.tables.base import Base


class Heartbeat(Base):
    """One recurring act, by its name, with the database's time of the last one."""

    __tablename__ = "heartbeats"
    name: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
