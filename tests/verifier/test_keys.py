import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.verifier.conftest import make_signer
from verifier.errors import Malformed
from verifier.keys import key_id, pem, read_keys

PUBLIC = make_signer().private.public_key()


def listed(**changes: object) -> bytes:
    item = {
        "key_id": key_id(PUBLIC),
        "public_key": pem(PUBLIC),
        "created_at": "2026-01-01T00:00:00Z",
        "revoked_at": None,
    }
    return json.dumps({"items": [item | changes]}).encode()


def test_a_key_is_read_from_pem_and_from_the_services_list() -> None:
    (from_pem,), (from_list,) = read_keys(pem(PUBLIC).encode()), read_keys(listed())
    assert from_pem.key_id == from_list.key_id == key_id(PUBLIC)
    assert from_list.revoked_at is None


def test_the_list_tells_what_is_revoked() -> None:
    (key,) = read_keys(listed(revoked_at="2026-02-01T00:00:00Z", revocation_reason="lost"))
    assert (key.revoked_at, key.revocation_reason) == ("2026-02-01T00:00:00Z", "lost")


def test_a_list_that_gives_a_key_anothers_id_is_refused() -> None:
    with pytest.raises(Malformed, match="has another id"):
        read_keys(listed(key_id="0" * 64))


def test_what_is_no_ed25519_public_key_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    curve = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for data in (b"", b"\xff", b"{}", b"[1]", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", curve):
        with pytest.raises(Malformed):
            read_keys(data)
