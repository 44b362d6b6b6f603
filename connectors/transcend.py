"""Transcend: the privacy platform's server webhook and its pending requests, as its documentation has them (docs.transcend.io).

Transcend sends a job for each identity of a person. Its webhook has a token (JWT, ES384) of its gateway, Sombra. The result goes to
Sombra, under the nonce of the job. A nonce is a JWT of Transcend's, which may name the person, so it is kept sealed.
"""

import base64
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from connectors.configuration import HandOverFailed
from connectors.declaration import Identity, Manager, read_declaration
from connectors.http import Server, Url
from ledger.requests.deadlines import RULES
from ledger.requests.managed import Managed
from ledger.sample_ids import KEY_BYTES, earlier_keys, rehash
from ledger.states import ManagedState

MANAGER = "transcend.io"
"""The name of its requests in the ledger. A manager that the operator declares cannot have it."""

MAX_AGE = timedelta(days=1)
"""How old a token may be: Transcend tries a webhook again that was not answered."""

CLOCK_SKEW = timedelta(minutes=5)
PAGE, MAX_PAGES = 100, 1000
"""Pending requests on a page, as many as all versions of the gateway give, and pages that are read."""

FAILED = {"status": "ACTION_REQUIRED", "profileStatus": "ERROR"}
"""The result of a job that did not erase the person. It is never one of Transcend's states of success."""


class InvalidTranscend(ValueError):
    """The declaration cannot be used. The message says why, with the field."""


class ResultRefused(HandOverFailed):
    """Sombra refuses the result of one job. Those of others may pass."""


class TokenRefused(Exception):
    """A token is not Sombra's, or not for this message. The message says what is wrong, and nothing of its content."""


class TypedIdentity(Identity):
    """Which subject identities of a type name."""

    type: Annotated[str, Field(min_length=1, max_length=100)]


class Declaration(Manager):
    """The TOML file. Paths are relative to it.

    sombra_url: of the gateway. api_key_file: Transcend's API key of the integration. sombra_key_file: the internal key of a gateway
    of one's own. public_key: Sombra's public signing keys (PEM), one or, around a rotation, two. audience: whom a token must be
    for; by default that is not compared. data_silo: the integration's ID, to list its pending requests.
    """

    sombra_url: Url
    api_key_file: Path
    sombra_key_file: Path | None = None
    public_key: Path
    audience: str | None = None
    data_silo: UUID | None = None
    regulation: str = "gdpr"
    timeout: Annotated[float, Field(gt=0, le=600)] = 30
    identities: Annotated[tuple[TypedIdentity, ...], Field(min_length=1)]


class PendingRequest(BaseModel):
    """A job that waits at Transcend for its result."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    identifier: Annotated[str, Field(min_length=1)]
    type: str
    request_id: Annotated[UUID, Field(alias="requestId")]
    nonce: Annotated[str, Field(pattern="^[!-~]{1,8000}$")]
    created_at: Annotated[datetime | None, Field(alias="requestCreatedAt")] = None


@dataclass(frozen=True, slots=True)
class Transcend:
    """The platform as the operator has declared it. folder: of the declaration."""

    declaration: Declaration
    folder: Path
    keys: tuple[EllipticCurvePublicKey, ...]

    def name_subject(self, kind: str, value: str) -> str | None:
        """Name the subject that an identity means; None if its type was not declared."""
        found = next((one for one in self.declaration.identities if one.type == kind), None)
        return None if found is None else found.name(value)

    def check_token(self, token: str, *, at: datetime) -> Mapping[str, Any]:
        """Check a token's signature, audience and age, and give its claims. Raises TokenRefused."""
        claims = read_token(token, self.keys)
        audience = self.declaration.audience
        given = claims.get("aud")
        if audience is not None and audience not in (given if isinstance(given, list) else [given]):
            raise TokenRefused("the token is for another audience")
        issued = claims.get("iat")
        if not isinstance(issued, int | float) or isinstance(issued, bool):
            raise TokenRefused("the token does not say when it was issued")
        if not (at - MAX_AGE).timestamp() <= issued <= (at + CLOCK_SKEW).timestamp():
            raise TokenRefused("the token is too old, or from the future")
        expires = claims.get("exp")
        if isinstance(expires, int | float) and expires < (at - CLOCK_SKEW).timestamp():
            raise TokenRefused("the token has expired")
        return claims

    def send_result(self, nonce: str, result: Mapping[str, Any]) -> None:
        """Send a job's result. Raises HandOverFailed, or its kind ResultRefused. A job that has ended there is no error."""
        status, _ = self._server.call(
            "PUT", "/v1/data-silo", result, headers=self._headers({"x-transcend-nonce": nonce})
        )
        if status not in (200, 201, 202, 204, 409):
            hint = " Has the API key expired, or the job's nonce?" if status in (401, 403) else ""
            kind = ResultRefused if 400 <= status < 500 and status != 429 else HandOverFailed
            raise kind(f"Sombra answered {status} to a job's result.{hint}")

    def list_pending(self) -> list[PendingRequest | None]:
        """List the erasures that wait for this integration, oldest first; None for one of another form. Raises HandOverFailed."""
        silo = quote(str(self.declaration.data_silo))
        found: list[PendingRequest | None] = []
        for page in range(MAX_PAGES):
            target = f"/v1/data-silo/{silo}/pending-requests/ERASURE?limit={PAGE}&offset={page * PAGE}"
            status, content = self._server.call("GET", target, headers=self._headers({}))
            if status != 200:
                hint = " Has the API key expired?" if status in (401, 403) else ""
                raise HandOverFailed(f"Sombra answered {status} to the list of pending requests.{hint}")
            try:
                items = _ITEMS.validate_python(json.loads(content)["items"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise HandOverFailed("Sombra's list of pending requests has another form.") from None
            found += map(_read_pending, items)
            if len(items) < PAGE:
                return found
        raise HandOverFailed(f"Sombra's list of pending requests has no end after {MAX_PAGES} pages.")

    @property
    def _server(self) -> Server:
        given = self.declaration
        return Server(url=given.sombra_url, token_file=self.folder / given.api_key_file, timeout=given.timeout)

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        if self.declaration.sombra_key_file is None:
            return dict(more)
        path = self.folder / self.declaration.sombra_key_file
        try:
            return {**more, "x-sombra-authorization": f"Bearer {path.read_text().strip()}"}
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise HandOverFailed(f"{path} cannot be read: {why}.") from None


_ITEMS = TypeAdapter(list[dict[str, Any]])


def _read_pending(item: dict[str, Any]) -> PendingRequest | None:
    try:
        return PendingRequest.model_validate(item)
    except ValueError:
        return None


def make_refusal(why: str) -> dict[str, Any]:
    """Give the result of a job that Expunge refuses."""
    return {**FAILED, "message": f"Expunge refuses the erasure: {why}"[:500]}


def make_reference(request_id: UUID) -> str:
    """Name a new job in the ledger: Transcend's ID of the person's request, and random digits that say nothing of the person."""
    return f"{request_id}.{secrets.token_hex(8)}"


def hash_job(request_id: UUID, kind: str, value: str, subject: str, *, key: bytes) -> str:
    """Hash what makes a job the same when it comes again (hex), also after a rotation of the key.

    Two identities may mean one subject, and each is a job with a result of its own. One identity may mean another subject once the
    declaration is corrected: that is not what was recorded before.
    """
    job = "\0".join(("", MANAGER, str(request_id), kind, value, subject))
    return rehash(hmac.digest(key[:KEY_BYTES], job.encode(), "sha256"), key[KEY_BYTES:]).hex()


def make_result(request: Managed) -> dict[str, Any] | None:
    """Give what a job's result is now; None while it has none. Only an erasure, or nothing to erase, is a success."""
    if request.state is ManagedState.COMPLETED:
        return {}
    if request.state is ManagedState.CANCELLED:
        return {
            **FAILED,
            "message": "The erasure was withdrawn or dismissed in Expunge. Its log says by whom, and why.",
        }
    if request.failed:
        return {
            **FAILED,
            "message": "The erasure failed in Expunge and is still owed. It is reported once it has succeeded.",
        }
    return None


def read_token(token: str, keys: Sequence[EllipticCurvePublicKey]) -> dict[str, Any]:
    """Check that one of the keys signed a JWT by ES384, and read its claims. Raises TokenRefused."""
    try:
        head, payload, signature = (part.encode("ascii") for part in token.split("."))
        header, raw = json.loads(_decode(head)), _decode(signature)
        if header["alg"] != "ES384" or "crit" in header or len(raw) != 96:
            raise TokenRefused("the token must be signed by ES384")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TokenRefused("x-sombra-token must be a JWT") from None
    encoded = encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))
    if not any(_is_signed(key, encoded, head + b"." + payload) for key in keys):
        raise TokenRefused("the token is not signed by the declared public_key")
    try:
        claims = json.loads(_decode(payload))
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise TokenRefused("the token has no claims")
    return claims


def _is_signed(key: EllipticCurvePublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content, ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


def _decode(part: bytes) -> bytes:
    return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)


def seal(nonce: str, *, key: bytes, reference: str) -> bytes:
    """Encrypt a job's nonce for the ledger (AES-256-GCM). key: that of the sample IDs, from which another one is derived."""
    salt = os.urandom(12)
    return salt + AESGCM(_sealing_key(key)).encrypt(salt, nonce.encode(), reference.encode())


def unseal(sealed: bytes, *, key: bytes, reference: str) -> str:
    """Decrypt a job's nonce, also one from before a rotation of the key.

    Raises ResultRefused if it was sealed with another key, or for another job.
    """
    for then in earlier_keys(key):
        with suppress(InvalidTag, ValueError):
            return AESGCM(_sealing_key(then)).decrypt(sealed[:12], sealed[12:], reference.encode()).decode()
    raise ResultRefused("A job's nonce cannot be read: EXPUNGE_SAMPLE_KEY is another one since it came.")


def _sealing_key(key: bytes) -> bytes:
    return hmac.digest(key, b"expunge transcend nonce", "sha256")


def read_transcend(path: Path) -> Transcend:
    """Read a declaration with its public keys. Raises InvalidTranscend."""
    declaration = read_declaration(path, TypeAdapter(Declaration), error=InvalidTranscend)
    if declaration.regulation not in RULES:
        raise InvalidTranscend(f"{path}: regulation must be one of {', '.join(RULES)}")
    kinds = [one.type for one in declaration.identities]
    if len(set(kinds)) < len(kinds):
        raise InvalidTranscend(f"{path}: identities has a type twice")
    where = path.parent / declaration.public_key
    try:
        pem = where.read_text(encoding="ascii")
        keys = [load_pem_public_key((part + _END).encode()) for part in pem.split(_END) if part.strip()]
    except OSError as error:
        raise InvalidTranscend(f"{where} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidTranscend(f"{where} holds no public key in PEM, or one of an unknown kind") from None
    found = [key for key in keys if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP384R1)]
    if not found or len(found) < len(keys):
        raise InvalidTranscend(f"{where} must hold keys on the curve P-384, with which ES384 signs")
    return Transcend(declaration, path.parent, tuple(found))


_END = "-----END PUBLIC KEY-----"
