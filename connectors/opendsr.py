"""OpenDSR (formerly OpenGDPR), by which customer data platforms pass on erasure requests: what the protocol needs beside its calls.

The operator declares in a TOML file under which domain this service answers, the certificate that signs, and how an identity of the
protocol names a subject. The API signs its answers with it, and the beat its status callbacks.
Source: https://github.com/opengdpr/OpenDSR, version 2.0.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, TypeAdapter

from connectors.declaration import Identity, Manager, read_declaration
from ledger.requests.managed import Managed

MANAGER = "opendsr"
"""The name under which the ledger keeps the requests of this protocol."""

API_VERSION = "2.0"
PREFIX = "/opendsr/v2"
"""Where the calls are: the protocol wants its major version at the start of the path."""

MIN_KEY_BITS = 2048
"""Of an RSA key that signs (FIPS 186)."""


class InvalidOpenDsr(ValueError):
    """The declaration, the certificate or the key cannot be used. The message says why, with the file, and quotes no secret."""


class IdentityType(StrEnum):
    """The kinds of identity that the protocol knows (§5.1)."""

    CONTROLLER_CUSTOMER_ID = "controller_customer_id"  # the customer's number at the company
    ANDROID_ADVERTISING_ID = "android_advertising_id"
    ANDROID_ID = "android_id"
    EMAIL = "email"
    FIRE_ADVERTISING_ID = "fire_advertising_id"
    IOS_ADVERTISING_ID = "ios_advertising_id"
    IOS_VENDOR_ID = "ios_vendor_id"
    MICROSOFT_ADVERTISING_ID = "microsoft_advertising_id"
    MICROSOFT_PUBLISHER_ID = "microsoft_publisher_id"
    ROKU_PUBLISHER_ID = "roku_publisher_id"
    ROKU_ADVERTISING_ID = "roku_advertising_id"


IdentityFormat = Literal["raw", "sha1", "md5", "sha256"]


class TypedIdentity(Identity):
    """Which subject identities of a type and a format name."""

    type: IdentityType
    format: IdentityFormat = "raw"


class Declaration(Manager):
    """The TOML file. Paths are relative to it."""

    domain: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    certificate: Path
    key: Path
    certificate_url: Annotated[str, Field(pattern=r"^https://[!-~]+$")] | None = None
    identities: Annotated[tuple[TypedIdentity, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class OpenDsr:
    """The protocol as the operator has declared it, ready to sign."""

    declaration: Declaration
    certificates: str
    key: RSAPrivateKey

    def headers(self, body: bytes) -> dict[str, str]:
        """Sign a body: RSA (PKCS #1 v1.5) over its SHA-256, in base64, with the domain to which the certificate was issued."""
        signature = self.key.sign(body, PKCS1v15(), SHA256())
        return {
            "X-OpenDSR-Processor-Domain": self.declaration.domain,
            "X-OpenDSR-Signature": base64.b64encode(signature).decode(),
        }

    def discovery(self) -> dict[str, object]:
        """Describe what is supported (§6.3)."""
        where = self.declaration.certificate_url or f"https://{self.declaration.domain}{PREFIX}/certificate.pem"
        return {
            "api_version": API_VERSION,
            "supported_identities": [
                {"identity_type": one.type.value, "identity_format": one.format} for one in self.declaration.identities
            ],
            "supported_subject_request_types": ["erasure"],
            "processor_certificate": where,
        }

    def subjects(self, identities: Iterable[tuple[str, str, str]]) -> list[str]:
        """Name the subjects of identities, each a type, a format and a value. What was not declared names nobody."""
        declared: dict[tuple[str, str], TypedIdentity] = {
            (one.type.value, one.format): one for one in self.declaration.identities
        }
        return [declared[kind, form].name(value) for kind, form, value in identities if (kind, form) in declared]

    def status(self, request: Managed) -> dict[str, object]:
        """Write what the status of a request tells (§8.3), and a callback beside its own address (§8.6).

        The protocol has no status for a failure. A request that failed is still owed, so it stays in progress, and our extension
        says that it failed.
        """
        extensions = {self.declaration.domain: {"state": "failed"}} if request.failed else None
        return {
            "controller_id": str(request.tenant_id),
            "expected_completion_time": rfc3339(request.due_at),
            "subject_request_id": request.reference,
            "request_status": request.state.value,
            "api_version": API_VERSION,
            "results_url": None,
            "extensions": extensions,
        }

    def callback(self, request: Managed, url: str) -> str:
        """Write the body of a status callback to one address."""
        return json.dumps({**self.status(request), "status_callback_url": url}, separators=(",", ":"))


def rfc3339(moment: datetime) -> str:
    """Write a time in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_opendsr(path: Path) -> OpenDsr:
    """Read a declaration with its certificate and key. Raises InvalidOpenDsr."""
    declaration = read_declaration(path, TypeAdapter(Declaration), error=InvalidOpenDsr)
    pem = _read(path.parent / declaration.certificate)
    try:
        own, *_ = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InvalidOpenDsr(f"{declaration.certificate} holds no certificate in PEM") from None
    _check(own, declaration)
    return OpenDsr(declaration, pem.decode("ascii"), _read_key(path.parent / declaration.key, own))


def _check(certificate: x509.Certificate, declaration: Declaration) -> None:
    """Check what a controller will check, so that a fault is found at the start and not by others. Raises InvalidOpenDsr."""
    named = f"the certificate {declaration.certificate}"
    if certificate.issuer == certificate.subject:
        raise InvalidOpenDsr(f"{named} is self-signed; OpenDSR wants one of a trusted certificate authority")
    moment = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc:
        until = certificate.not_valid_after_utc.isoformat(timespec="seconds")
        raise InvalidOpenDsr(f"{named} is not valid now; it is valid until {until}")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        domains = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        domains = []
    if declaration.domain not in domains:
        raise InvalidOpenDsr(
            f"{named} was not issued to {declaration.domain} but to {', '.join(domains) or 'no domain'}"
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise InvalidOpenDsr(f"{named} may not sign: its key usage lacks digitalSignature")


def _read_key(path: Path, certificate: x509.Certificate) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise InvalidOpenDsr(f"{path} holds no unencrypted private key in PEM, or one of an unknown kind") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < MIN_KEY_BITS:
        raise InvalidOpenDsr(f"{path} must hold an RSA key of {MIN_KEY_BITS} bits or more")
    if key.public_key() != certificate.public_key():
        raise InvalidOpenDsr(f"{path} is not the key of the certificate")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidOpenDsr(f"{path} cannot be read: {error.strerror}") from None
