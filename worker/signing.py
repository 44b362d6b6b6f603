"""Signing: the private keys, which only the worker and the operator's commands can read; the statement of a report; the log."""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from sqlalchemy.orm import Session, sessionmaker

from connectors.model_signing import InvalidModelKey, ModelSigner, read_model_key
from ledger.errors import LogForked
from ledger.transparency.log import place_leaves, sign_checkpoint
from ledger.transparency.signing_keys import usable_signing_keys
from report.canonical import canonical_json
from report.document import Document, Model
from verifier.keys import key_id, pem
from verifier.log import TreeHead, sign_note
from verifier.statement import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, envelope
from worker.failures import NoSigningKey
from worker.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, its ID, and the folder of the keys, which remembers what was signed last."""

    key_id: str
    private: Ed25519PrivateKey = field(repr=False)
    folder: Path

    def checkpoint(self, checkpoint: TreeHead) -> str:
        """Sign a log checkpoint into a note."""
        return sign_note(
            checkpoint.text, name=checkpoint.origin, public=self.private.public_key(), sign=self.private.sign
        )


LAST_SIGNED = "last-signed.json"
"""The file beside the private keys with the largest tree head of the log that was signed with them."""


LOCK_SECONDS = 5.0
"""How long to wait for another process that remembers what it signed."""


def read_last_signed(folder: Path) -> TreeHead | None:
    """Read which tree head was signed last with a folder's keys; None before the first. Raises LogForked if it is malformed."""
    path = folder / LAST_SIGNED
    try:
        found = json.loads(path.read_bytes())
        return TreeHead(origin=str(found["origin"]), size=int(found["size"]), root=bytes.fromhex(found["root"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LogForked(
            f"{path} cannot be read ({type(error).__name__}): what was signed last is not known."
        ) from error


def remember_signed(folder: Path, head: TreeHead) -> None:
    """Remember what was signed, once it is committed. Of one log, the larger head stays.

    If the folder cannot be written to, or another process holds its lock for LOCK_SECONDS, an error is logged: a log that shrinks
    would then not be noticed. The next signature is remembered instead.
    """
    text = json.dumps({"origin": head.origin, "size": head.size, "root": head.root.hex()})
    fresh = folder / f".{LAST_SIGNED}"
    try:
        with (folder / f".{LAST_SIGNED}.lock").open("w") as lock:
            lock_within(lock, seconds=LOCK_SECONDS)
            last = read_last_signed(folder)
            if last is not None and last.origin == head.origin and last.size >= head.size:
                return
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(folder / LAST_SIGNED)
    except OSError as error:
        logger.error("what was signed last cannot be remembered in %s: %s", folder, error.strerror)


def lock_within(file: IO[str], *, seconds: float) -> None:
    """Lock an open file for this process alone. Raises BlockingIOError if another one holds the lock so long: it may be frozen."""
    limit = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class NewKey:
    """The ID of a new key, and its public half as PEM."""

    key_id: str
    public_key: str


def make_key(folder: Path) -> NewKey:
    """Make a key and write its private half into the folder, readable only by its owner."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    made = NewKey(key_id(public), pem(public))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(_path(folder, made.key_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return made


def discard_key(folder: Path, identifier: str) -> bool:
    """Delete a private key; return whether it existed."""
    path = _path(folder, identifier)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def find_signer(sessions: sessionmaker[Session], folder: Path | None) -> Signer | None:
    """Find the key that signs now; None if no folder is set, so that nothing is signed. Raises NoSigningKey."""
    if folder is None:
        return None
    with sessions.begin() as session:
        usable = usable_signing_keys(session)
    return load_signer(folder, usable)


def load_signer(folder: Path, usable: Collection[str]) -> Signer:
    """Load the first of the usable keys, given by their IDs, whose private half is in the folder.

    Raises NoSigningKey if there is none, or if its file is malformed or readable by others.
    """
    for identifier in usable:
        path = _path(folder, identifier)
        try:
            if path.exists():
                return Signer(identifier, _read(path, identifier), folder)
        except OSError as error:
            raise NoSigningKey(f"The signing key {identifier[:12]} cannot be read: {error.strerror}.") from error
    raise NoSigningKey(
        "EXPUNGE_SIGNING_KEYS is set, but its folder has no private key that is registered and not revoked. Make one with "
        "`expunge signing-keys new`, then retry the job."
    )


def find_model_signer(path: Path | None) -> ModelSigner | None:
    """Read the operator's key that signs weights; None if none is set. Raises NoSigningKey."""
    try:
        return None if path is None else read_model_key(path)
    except InvalidModelKey as error:
        raise NoSigningKey(f"EXPUNGE_MODEL_SIGNING_KEY: {error}") from error


def _read(path: Path, identifier: str) -> Ed25519PrivateKey:
    if path.stat().st_mode & 0o077:
        raise NoSigningKey(
            f"The signing key {identifier[:12]} is readable by others than its owner; run chmod 600 on its file."
        )
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise NoSigningKey(f"The signing key {identifier[:12]} cannot be read: {type(error).__name__}.") from error
    if not isinstance(private, Ed25519PrivateKey) or key_id(private.public_key()) != identifier:
        raise NoSigningKey(f"The file of the signing key {identifier[:12]} holds another key.")
    return private


def _path(folder: Path, identifier: str) -> Path:
    return folder / f"{identifier}.pem"


CONTROLS = ("negative_control", "positive_control")
"""Prefixes of the codes of findings that say whether the audit's tests have any power."""


def sign_statement(document: Document, *, signer: Signer) -> dict[str, Any]:
    """Sign what a report says: a DSSE envelope around the canonical JSON of the statement."""
    payload = canonical_json(make_statement(document))
    return envelope(PAYLOAD_TYPE, payload, key_id=signer.key_id, sign=signer.private.sign)


def make_statement(document: Document) -> dict[str, Any]:
    """State about the new weights what their report says, in short and without anything about a single sample."""
    report = document.report
    asked, model, method, verdict = report.asked, report.model, report.method, report.verdict
    reference, exactness, certificate, people = model.reference, report.exactness, report.certificate, {}
    if asked.subjects_root is not None:
        people = {"people": {"root": asked.subjects_root, "subjects": asked.subjects, "hash": "rfc6962-sha256"}}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [weights(model, number=model.version_after, sha256=model.weights_after_sha256)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "report": {"id": report.report_id, "sha256": document.sha256, "schema": report.schema_id},
            "model": model.model_dump(include={"name", "dataset", "workload", "version_before", "version_after"}),
            "before": [weights(model, number=model.version_before, sha256=model.weights_before_sha256)],
            "reference": [weights(model, number=reference.version, sha256=reference.weights_sha256)]
            if reference
            else [],
            "manifest": {"root": asked.manifest_root, "samples": asked.samples, "hash": "rfc6962-sha256"},
            **people,
            "requests": asked.requests,
            "method": method.model_dump(mode="json", exclude={"attempts"}),
            "code": {"name": "expunge", "version": version("expunge"), "sha256": code_sha256()},
            "controls": [check.model_dump() for check in verdict.findings if check.code.startswith(CONTROLS)],
            "thresholds": report.thresholds,
            "verdict": {"value": verdict.value.value, "sentence": verdict.sentence},
            "exactness": None if exactness is None else exactness.model_dump(mode="json"),
            "certificate": None if certificate is None else certificate.model_dump(mode="json"),
            "clock": {"signed_at": report.created_at.isoformat(), "source": "the ledger's database"},
            "limits": list(report.limits),
        },
    }


def weights(model: Model, *, number: int, sha256: str) -> dict[str, Any]:
    """Name weights as in-toto does: a name, and digests."""
    return {"name": f"{model.name}/versions/{number}", "digest": {"sha256": sha256}}


CODE = ("report", "unlearning", "worker")
"""The packages that make a result and its report."""


@cache
def code_sha256() -> str:
    """SHA-256, hex, over the Python files that made the result and its report: names and contents of CODE, sorted."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in CODE for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(b"%b %d\n" % (path.relative_to(root).as_posix().encode(), len(content)) + content)
    return digest.hexdigest()


def sign_log(sessions: sessionmaker[Session], settings: Settings) -> bool:
    """Place the log's new entries, and sign a log checkpoint if there were any; return whether one was signed.

    Without a usable key, and if the log is not the one that was signed last, it grows unsigned, and an error is logged.
    """
    try:
        signer = find_signer(sessions, settings.signing_keys)
    except NoSigningKey as error:
        logger.error("the log is not signed: %s", error)
        signer = None
    with sessions.begin() as session:
        if signer is None:
            place_leaves(session)
            return False
        head = sign_head(session, signer)
    if head is not None:
        remember_signed(signer.folder, head)
    return head is not None


def sign_head(session: Session, signer: Signer) -> TreeHead | None:
    """Sign the log in the caller's transaction if it has grown; return what was signed, to be remembered after the commit.

    If the log does not continue what was signed last, it is not signed, and an error is logged: auditors could tell such a log from
    a forgery no more.
    """
    try:
        return sign_checkpoint(session, signer.checkpoint, last=read_last_signed(signer.folder))
    except LogForked as error:
        logger.error("the log is not signed: %s", error)
        return None
