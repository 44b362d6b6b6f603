"""Signed envelopes: DSSE v1.0.0 (github.com/secure-systems-lab/dsse), with Ed25519."""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature

from verifier.errors import BadSignature, Malformed
from verifier.keys import TrustedKey, choose_valid, named


def encoded(payload_type: str, payload: bytes) -> bytes:
    """Encode the type and the payload as the bytes that are signed (PAE, pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(payload_type: str, payload: bytes, *, key_id: str, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Sign a payload and return its envelope with one signature."""
    signature = sign(encoded(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(data: bytes, *, payload_type: str, keys: Sequence[TrustedKey]) -> tuple[bytes, TrustedKey]:
    """Return the payload of an envelope that one of the keys signed, and that key.

    Every key is tried: the envelope's `keyid` is only a hint, which anybody could write. A payload of another type is refused
    even if its signature is good. Raises Malformed, BadSignature, Revoked.
    """
    try:
        found = json.loads(data)
        kind, payload = str(found["payloadType"]), _bytes(found["payload"])
        signatures = [_bytes(one["sig"]) for one in found["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("The file is not a DSSE envelope, or it is not complete.") from error
    signed_by = [key for key in keys for one in signatures if _is_good(key, one, encoded(kind, payload))]
    if not signed_by:
        raise BadSignature(
            f"None of the given keys ({named(keys)}) signed this: it was changed, or another key signed it."
        )
    signer = choose_valid(signed_by)
    if kind != payload_type:
        raise Malformed(f"The signed payload is of the type {kind!r}, not {payload_type!r}.")
    return payload, signer


def _is_good(key: TrustedKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.public.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _bytes(text: object) -> bytes:
    """Decode base64 in either of its alphabets, as the specification requires."""
    if not isinstance(text, str):
        raise TypeError("base64 is text")
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
