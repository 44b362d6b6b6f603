"""OpenSSF model signing (OMS) with an operator's own P-256 key: a signature of a version's weights that other tools check.

It is a Sigstore bundle around an in-toto Statement in a DSSE envelope, as the package model-signing 1.1 writes and verifies it.
That package is no dependency: it brings thirty others, most of them for keyless signing, which this form does not need.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from verifier.statement import envelope

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
WEIGHTS = "model.safetensors"
"""The name under which the weights are signed: the verifier looks for a file of this name."""


class InvalidModelKey(ValueError):
    """The file holds no key that can sign models. The message says why."""


@dataclass(frozen=True, slots=True)
class ModelSigner:
    """A private key on P-256, and by what its public half is known to a verifier: the SHA-256, hex, of its PEM."""

    hint: str
    private: EllipticCurvePrivateKey = field(repr=False)

    def sign(self, name: str, weights_sha256: str) -> dict[str, Any]:
        """Sign the weights of a model version. weights_sha256: hex. Returns the bundle."""
        payload = json.dumps(make_manifest(name, weights_sha256)).encode()
        signed = envelope(PAYLOAD_TYPE, payload, key_id="", sign=lambda data: self.private.sign(data, ECDSA(SHA256())))
        return {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.hint}, "tlogEntries": []},
            "dsseEnvelope": signed,
        }

    def has_signed(self, bundle: dict[str, Any]) -> bool:
        """Whether a bundle names this key. It does not check the signature."""
        return bool(bundle["verificationMaterial"]["publicKey"]["hint"] == self.hint)


def make_manifest(name: str, weights_sha256: str) -> dict[str, Any]:
    """State which files a model has: one, with its digest. The subject's digest is over the digests of all files."""
    root = hashlib.sha256(bytes.fromhex(weights_sha256)).hexdigest()
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    resources = [{"name": WEIGHTS, "algorithm": "sha256", "digest": weights_sha256}]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    }


def read_model_key(path: Path) -> ModelSigner:
    """Read a private key (PEM, not encrypted, readable by its owner alone). Raises InvalidModelKey."""
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise InvalidModelKey(f"{path} cannot be read: {error.strerror}.") from None
    if mode & 0o077:
        raise InvalidModelKey(f"{path} is readable by others than its owner; run chmod 600 on it.")
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise InvalidModelKey(f"{path} holds no unencrypted private key in PEM.") from None
    if not isinstance(private, EllipticCurvePrivateKey) or not isinstance(private.curve, SECP256R1):
        raise InvalidModelKey(f"{path} must hold a key on the curve P-256 (openssl: prime256v1).")
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return ModelSigner(hashlib.sha256(public).hexdigest(), private)
