"""The keys of a deployment: API keys, the log's signing keys, the operator's own key for weights, and the sample key."""

import os
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.exc import OperationalError

from connectors.model_signing import InvalidModelKey, read_model_key
from connectors.storage import delete_all
from expunge.errors import KeyCommandRefused, SigningRefused
from expunge.operator.deployment import Deployment, open_database
from expunge.stack.folder import write_secret
from ledger import resources, sample_key
from ledger.errors import ModelBusy, Refused, UnknownScope, WrongSampleKey
from ledger.registry import access
from ledger.registry.access import KeyView, Scope
from ledger.registry.references import ReferenceFile
from ledger.registry.retention import needed_files
from ledger.registry.versions import list_signable, set_signature
from ledger.sample_ids import KEY_BYTES, parse_sample_key
from ledger.sample_key import Rotated, Unmatchable
from ledger.transparency import signing_keys
from unlearning.errors import WeightsError
from unlearning.files import file_sha256
from worker.signing import discard_key, make_key

FIRST_TENANT = "default"

DEFAULT_SCOPES = tuple(scope.value for scope in Scope if scope not in (Scope.ADMIN, Scope.WEIGHTS_READ))
"""The scopes of a new key if the operator names none."""

HAD_ONE = "has a signature of this key"
KNOWS_ERASED = "not signed: it knows samples that were erased since"
"""Why `sign_versions` gave a version no signature."""


def ensure_first_api_key(database_url: str) -> str | None:
    """Create the first tenant's first API key and return its secret; return None if the tenant has a key."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        tenant_id = access.ensure_tenant(session, FIRST_TENANT)
        if access.list_keys(session, tenant_id=tenant_id):
            return None
        return access.issue_key(session, tenant_id=tenant_id, name="first", scopes=[Scope.ADMIN]).secret


def create_api_key(database_url: str, *, tenant: str, name: str, scopes: Collection[str]) -> str:
    """Create an API key with these scopes and return its secret. Raises KeyCommandRefused for an unknown scope."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        tenant_id = access.ensure_tenant(session, tenant)
        try:
            return access.issue_key(session, tenant_id=tenant_id, name=name, scopes=scopes).secret
        except UnknownScope as error:
            raise KeyCommandRefused(str(error)) from error


def list_api_keys(database_url: str, *, tenant: str) -> list[KeyView]:
    """List a tenant's API keys, oldest first, without their secrets."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        return access.list_keys(session, tenant_id=access.ensure_tenant(session, tenant))


def revoke_api_key(database_url: str, *, tenant: str, prefix: str) -> None:
    """Revoke the API key with this prefix; do nothing if it is revoked. Raises KeyCommandRefused for an unknown prefix."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        tenant_id = access.ensure_tenant(session, tenant)
        keys = access.list_keys(session, tenant_id=tenant_id)
        key = next((key for key in keys if key.prefix == prefix), None)
        if key is None:
            raise KeyCommandRefused(f"The tenant {tenant!r} has no key {prefix!r}; see `expunge keys list`.")
        access.revoke_key(session, tenant_id=tenant_id, key_id=key.id)


def create_signing_key(database_url: str, folder: Path) -> resources.SigningKey:
    """Create a signing key in `folder` and register it; the worker signs with it from now on. Earlier keys stay valid."""
    made = make_key(folder)
    try:
        with open_database(database_url) as sessions, sessions.begin() as session:
            return signing_keys.register_signing_key(session, key_id=made.key_id, public_key=made.public_key)
    except BaseException:
        discard_key(folder, made.key_id)
        raise


def ensure_signing_key(database_url: str, folder: Path) -> None:
    """Create a signing key unless `folder` holds one that is registered and not revoked."""
    usable = {key.key_id for key in list_signing_keys(database_url) if key.revoked_at is None}
    if not usable & {path.stem for path in folder.glob("*.pem")}:
        create_signing_key(database_url, folder)


def list_signing_keys(database_url: str) -> list[resources.SigningKey]:
    """List the signing keys, newest first."""
    with open_database(database_url) as sessions, sessions.begin() as session:
        return signing_keys.list_signing_keys(session)


def revoke_signing_key(database_url: str, folder: Path, *, prefix: str, reason: str) -> resources.SigningKey:
    """Revoke the signing key whose ID begins with `prefix` and delete its private half from `folder`.

    Raises KeyCommandRefused unless exactly one key has this prefix.
    """
    with open_database(database_url) as sessions, sessions.begin() as session:
        found = [key for key in signing_keys.list_signing_keys(session) if key.key_id.startswith(prefix)]
        if len(found) != 1:
            count = len(found) or "no"
            raise KeyCommandRefused(
                f"Nothing was revoked: {count} signing keys begin with {prefix!r}; see `expunge signing-keys list`."
            )
        revoked = signing_keys.revoke_signing_key(session, key_id=found[0].key_id, reason=reason)
    discard_key(folder, revoked.key_id)
    return revoked


@dataclass(frozen=True, slots=True)
class Signed:
    """What became of a version: `signed` now, or why not."""

    number: int
    weights_sha256: str
    outcome: str


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
                found = list_signable(session, tenant_id=access.ensure_tenant(session, tenant), model=model)
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


def rotate_sample_key(deployment: Deployment, key_file: Path, *, adopt: Path | None = None) -> Rotated | None:
    """Hash the ledger, and the files of reference predictions, on to the key in `key_file`. None if that was done already.

    key_file: what EXPUNGE_SAMPLE_KEY is to be from then on. Unless it exists it is written, with a new key, before anything is
    changed. The ledger is changed in one transaction: after an interruption run it again with the same file. adopt: the file that
    a stack has its key in, which `key_file` replaces at the end.
    Raises KeyCommandRefused; then nothing is changed.
    """
    # It imports torch, for which no other command of keys should wait, nor should the stack's start.
    from worker.inputs import read_references, write_references

    new = _read_new_key(key_file, deployment.sample_key)
    storage, replaced = deployment.files, set[str]()

    def rewrite(file: ReferenceFile, rehash: Callable[[bytes], bytes]) -> ReferenceFile | None:
        references, _ = read_references(file, storage)
        if references is None:
            return None
        written = write_references(replace(references, keys=tuple(map(rehash, references.keys))), storage)
        replaced.add(file.path)
        return written

    with open_database(deployment.database_url) as sessions:
        try:
            with sessions.begin() as session:
                rotated = sample_key.rotate_sample_key(session, old=new[:-KEY_BYTES], new=new, rewrite=rewrite)
        except (WrongSampleKey, ModelBusy) as error:
            raise KeyCommandRefused(f"The key was not rotated: {error}.") from error
        except OperationalError as error:
            if "lock timeout" not in str(error):
                raise
            raise KeyCommandRefused(
                "The key was not rotated: others use the ledger, such as an import or a long list. Run it again after that."
            ) from error
        with sessions() as session:
            unneeded = replaced - needed_files(session)
    if adopt is not None:
        os.utime(key_file)  # by its time the key is known to be newer than the running stack (`has_newer_key`)
        key_file.replace(adopt)
    # Their rows are under the old key. The next purge deletes those that are left, or says why not.
    with suppress(OSError):
        delete_all(storage.delete, unneeded)
    return rotated


def replace_lost_key(deployment: Deployment) -> Unmatchable:
    """Go on with the deployment's sample key, because the ledger's own is lost; count what is never matched again."""
    with open_database(deployment.database_url) as sessions, sessions.begin() as session:
        return sample_key.replace_lost_key(session, deployment.sample_key)


def _read_new_key(key_file: Path, current: bytes) -> bytes:
    """Read the key to rotate to; create it, with one more key than the current one has, unless the file exists."""
    try:
        if not key_file.exists():
            write_secret(key_file, (current + secrets.token_bytes(KEY_BYTES)).hex())
        new = parse_sample_key(key_file.read_text().strip())
    except OSError as error:
        raise KeyCommandRefused(f"{key_file} cannot be read or written: {error.strerror}.") from None
    except ValueError as error:
        raise KeyCommandRefused(f"{key_file} holds no sample key: it {error}.") from None
    if current not in (new, new[:-KEY_BYTES]):
        raise KeyCommandRefused(
            f"{key_file} does not continue EXPUNGE_SAMPLE_KEY: it must be that value and {2 * KEY_BYTES} hex digits more. Name a "
            "file that does not exist, and it is made."
        )
    return new
