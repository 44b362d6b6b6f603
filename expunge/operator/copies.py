"""Offboard old copies of a model's weights: list where they went, and delete what Expunge may delete."""

from dataclasses import dataclass
from datetime import timedelta

from expunge.errors import CopiesRefused
from expunge.operator.deployment import Deployment, open_database
from expunge.operator.retention import Purgeable, Purged, purge
from ledger.errors import Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.copies import VersionCopies, list_copies
from ledger.registry.retention import list_superseded

NO_AGE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Offboarding:
    """A model's versions with their copies, and which of the weights that know erased people Expunge may delete now."""

    versions: list[VersionCopies]
    deletable: Purgeable

    @property
    def left(self) -> list[str]:
        """What the operator has to do: a sentence for each copy that knows erased people and that Expunge cannot delete."""
        deletable = {version.version_id for version in self.deletable.versions}
        found = []
        for version in self.versions:
            if not version.knows:
                continue
            if version.purged_at is None and version.version_id not in deletable:
                found.append(
                    f"Version {version.number} is needed by a job, or may still be served. Wait for its job's end."
                )
            for handed in version.handed:
                if not handed.is_gone:
                    place = f" ({handed.place})" if handed.place else ""
                    found.append(
                        f"Version {version.number} may be at {handed.connector}{place}: {handed.state}. Delete it there."
                    )
            for fetched in version.fetched:
                found.append(
                    f"Version {version.number} was fetched with the key {fetched.key} ({fetched.name}), "
                    f"last on {fetched.last:%Y-%m-%d %H:%M} UTC. Ask its owner to delete it."
                )
        return found


def find_copies(deployment: Deployment, *, model: str, tenant: str = "default") -> Offboarding:
    """List a model's copies; change nothing. Raises CopiesRefused."""
    try:
        with open_database(deployment.database_url) as sessions, sessions.begin() as session:
            versions = list_copies(session, tenant_id=ensure_tenant(session, tenant), model=model)
            knowing = {version.version_id for version in versions if version.knows}
            superseded = list_superseded(session, older_than=NO_AGE)
    except Refused as error:
        raise CopiesRefused(f"{error}.") from error
    return Offboarding(versions, Purgeable([each for each in superseded if each.version_id in knowing], []))


def delete_copies(deployment: Deployment, found: Offboarding) -> Purged:
    """Delete the weights that know erased people, with all versions in the storage. Systems that can delete follow by the beat."""
    return purge(deployment, found.deletable, older_than=NO_AGE)
