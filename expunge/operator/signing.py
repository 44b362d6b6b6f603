"""Sign the weights of versions with the operator's own key, for other tools (OpenSSF model signing)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from connectors.model_signing import InvalidModelKey, read_model_key
from expunge.errors import SigningRefused
from expunge.operator.deployment import Deployment, open_database
from ledger.errors import Refused
from ledger.registry.access import ensure_tenant
from ledger.registry.versions import list_signable, set_signature
from unlearning.errors import WeightsError
from unlearning.files import file_sha256


@dataclass(frozen=True, slots=True)
class Signed:
    """What became of a version: `signed` now, or why not."""

    number: int
    weights_sha256: str
    outcome: str


HAD_ONE = "has a signature of this key"
KNOWS_ERASED = "not signed: it knows samples that were erased since"


def sign_versions(deployment: Deployment, *, model: str, tenant: str = "default") -> Iterator[Signed]:
    """Sign the stored versions of a model that have no signature of the key EXPUNGE_MODEL_SIGNING_KEY, each by itself.

    A version that knows samples which were erased since gets no signature: others would take it for one that may be used. A file is
    read and its digest compared before it is signed. Raises SigningRefused; what was signed before stays so.
    """
    given = os.environ.get("EXPUNGE_MODEL_SIGNING_KEY")
    if not given:
        raise SigningRefused(
            "EXPUNGE_MODEL_SIGNING_KEY is not set: the file of a private key on P-256, as `openssl genpkey` makes it."
        )
    try:
        signer = read_model_key(Path(given))
        with open_database(deployment.database_url) as sessions:
            with sessions.begin() as session:
                found = list_signable(session, tenant_id=ensure_tenant(session, tenant), model=model)
            for version in found:
                outcome = "signed"
                if version.signature is not None and signer.has_signed(version.signature):
                    outcome = HAD_ONE
                elif version.knows_erased:
                    outcome = KNOWS_ERASED
                else:
                    path = deployment.files.fetch(version.path, version.weights_sha256)
                    digest = file_sha256(path)
                    if digest != version.weights_sha256:
                        raise SigningRefused(
                            f"Version {version.number} was not signed: its file has the SHA-256 {digest}, and must have "
                            f"{version.weights_sha256}. Restore it from the backup."
                        )
                    with sessions.begin() as session:
                        set_signature(session, version.version_id, signer.sign(model, digest))
                yield Signed(version.number, version.weights_sha256, outcome)
    except InvalidModelKey as error:
        raise SigningRefused(f"EXPUNGE_MODEL_SIGNING_KEY: {error}") from error
    except Refused as error:
        raise SigningRefused(f"{error}.") from error
    except (OSError, WeightsError) as error:
        raise SigningRefused(f"The weights cannot be read: {error}") from error
