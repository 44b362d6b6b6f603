"""Envelopes, against the published vectors, against another implementation, and against whoever changes them."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from tests.verifier.conftest import make_signer, sign_envelope
from verifier.errors import BadSignature, Malformed, Revoked
from verifier.keys import TrustedKey, key_id, pem
from verifier.statement import encoded, open_envelope

IN_TOTO = "application/vnd.in-toto+json"
# github.com/secure-systems-lab/dsse, testvectors/vectors.json: key A, and what it has signed.
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
VECTORS = {
    "single-signature": (
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
        IN_TOTO,
        "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA==",
    ),
    "url-safe-base64": (
        "-_-_Pj8=",
        IN_TOTO,
        "P-_KHICeR7tI6S_YyejJTRtrXhcQyQ2LYPaL8h90KjC9qN8HU_svOQ6TuDOT1HIrsGW886DbWNWcCmX5twLrAw==",
    ),
    "non-ascii-payload-type": (
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
        "application/vnd.exämple+json",
        "xmSk/ug66ysT7ayhkCIjhAq42zgZXSsEWuzUaNL7w2eGAdF/NU6/fRXPtmfN+5DNSAs5/i2lUnHjbbjPsu0tAw==",
    ),
    "empty-payload": (
        "",
        IN_TOTO,
        "gSggCAaTLTYyRH6FIDBem6meyIynsYy8RTHVzwx9tnTb7Bg/1jMWnuVgI/gffqmbsC2VX5/jHfkkDqsj7CDbDg==",
    ),
}


def trusted(private: Ed25519PrivateKey, **more: str) -> TrustedKey:
    return TrustedKey(key_id=key_id(private.public_key()), public=private.public_key(), **more)


KEY_A = trusted(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)))


def packed(payload: str, kind: str, *signatures: str) -> bytes:
    rows = [{"keyid": "A", "sig": signature} for signature in signatures]
    return json.dumps({"payload": payload, "payloadType": kind, "signatures": rows}).encode()


def test_the_encoding_is_the_specifications() -> None:
    said = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert encoded("http://example.com/HelloWorld", b"hello world") == said


@pytest.mark.parametrize("name", VECTORS)
def test_the_published_vectors_are_accepted(name: str) -> None:
    payload, kind, signature = VECTORS[name]
    found, key = open_envelope(packed(payload, kind, signature), payload_type=kind, keys=[KEY_A])
    assert (found, key) == (base64.b64decode(payload, altchars=b"-_" if "-" in payload else None), KEY_A)


def test_a_signature_for_another_type_is_refused() -> None:
    payload, _, signature = VECTORS["single-signature"]
    other = "application/vnd.example.other+json"
    with pytest.raises(BadSignature):
        open_envelope(packed(payload, other, signature), payload_type=other, keys=[KEY_A])


def test_a_good_signature_over_another_payload_type_is_refused() -> None:
    with pytest.raises(Malformed, match="of the type"):
        open_envelope(packed(*VECTORS["single-signature"]), payload_type="text/plain", keys=[KEY_A])


def test_securesystemslib_accepts_ours_and_we_accept_its() -> None:
    signer = make_signer()
    ours = sign_envelope(signer, IN_TOTO, b'{"a": 1}')
    public = SSlibKey(
        signer.key_id, "ed25519", "ed25519", {"public": signer.private.public_key().public_bytes_raw().hex()}
    )
    Envelope.from_dict(json.loads(json.dumps(ours))).verify([public], 1)

    theirs = Envelope(b'{"b": 2}', IN_TOTO, {})
    theirs.sign(CryptoSigner(signer.private, public))
    payload, _ = open_envelope(
        json.dumps(theirs.to_dict()).encode(), payload_type=IN_TOTO, keys=[trusted(signer.private)]
    )
    assert payload == b'{"b": 2}'


def test_the_hint_of_the_key_decides_nothing() -> None:
    signer = make_signer()
    found = sign_envelope(signer, IN_TOTO, b"x")
    found["signatures"][0]["keyid"] = "somebody else"
    assert open_envelope(json.dumps(found).encode(), payload_type=IN_TOTO, keys=[KEY_A, trusted(signer.private)])


def test_a_changed_payload_type_or_signature_is_refused() -> None:
    payload, kind, signature = VECTORS["single-signature"]
    other = base64.b64encode(b'{"_type":"https://in-toto.io/Statement/v2"}').decode()
    flipped = base64.b64encode(bytes([base64.b64decode(signature)[0] ^ 1]) + base64.b64decode(signature)[1:]).decode()
    for changed in (packed(other, kind, signature), packed(payload, kind, flipped), packed(payload, kind)):
        with pytest.raises(BadSignature):
            open_envelope(changed, payload_type=kind, keys=[KEY_A])


def test_another_key_or_none_is_refused() -> None:
    for keys in ([], [trusted(Ed25519PrivateKey.generate())]):
        with pytest.raises(BadSignature):
            open_envelope(packed(*VECTORS["single-signature"]), payload_type=IN_TOTO, keys=keys)


def test_a_revoked_key_is_refused_but_not_where_another_has_signed_too() -> None:
    payload, kind, signature = VECTORS["single-signature"]
    revoked = TrustedKey(
        key_id=KEY_A.key_id, public=KEY_A.public, revoked_at="2026-01-02T03:04:05Z", revocation_reason="stolen"
    )
    with pytest.raises(Revoked, match="stolen"):
        open_envelope(packed(payload, kind, signature), payload_type=kind, keys=[revoked])
    for keys in ([revoked, KEY_A], [KEY_A, revoked]):  # an older list does not bring it back
        with pytest.raises(Revoked, match="stolen"):
            open_envelope(packed(payload, kind, signature), payload_type=kind, keys=keys)
    second = Ed25519PrivateKey.generate()
    added = base64.b64encode(second.sign(encoded(kind, base64.b64decode(payload)))).decode()
    _, key = open_envelope(packed(payload, kind, signature, added), payload_type=kind, keys=[revoked, trusted(second)])
    assert key.public == second.public_key()


@pytest.mark.parametrize("length", [0, 1, 40, 100, -1, -2])
def test_a_truncated_envelope_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        open_envelope(packed(*VECTORS["single-signature"])[:length], payload_type=IN_TOTO, keys=[KEY_A])


@pytest.mark.parametrize(
    "data", [b"[]", b"null", b"{}", b'{"payload": 1, "payloadType": "x", "signatures": []}', b"\xff"]
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        open_envelope(data, payload_type=IN_TOTO, keys=[KEY_A])


def test_a_key_is_known_by_the_digest_of_its_der_form() -> None:
    assert key_id(KEY_A.public) == KEY_A.key_id
    assert pem(KEY_A.public).startswith("-----BEGIN PUBLIC KEY-----")
