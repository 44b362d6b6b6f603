"""Long lists of samples that were uploaded ahead of the request that names them."""

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, LargeBinary, Table
from sqlalchemy.orm import Mapped, mapped_column

from ledger.tables.base import Base, Created, Key, Sha256


class UploadedManifest(Base):
    """A list for one dataset, complete when its row is there. It is kept for some days; what is asked with it is copied."""

    __tablename__ = "uploaded_manifests"
    __table_args__ = (CheckConstraint("samples > 0", name="samples"),)
    id: Mapped[Key]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    samples: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[Sha256]
    created_at: Mapped[Created]


uploaded_samples = Table(
    "uploaded_samples",
    Base.metadata,
    # No foreign key: the rows come first, and a check a row would cost more than all the rest.
    Column("manifest_id", UploadedManifest.__table__.c.id.type, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
)
"""What each uploaded manifest holds, each sample once."""
