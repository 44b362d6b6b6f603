"""Secrets of webhook endpoints: derived from the service's key, so that none is stored and a copy of the database tells none."""

import base64
import hmac
from uuid import UUID

_PURPOSE = b"\0webhook secret\0"
"""No sample's digest is made of an input that begins with NUL: a dataset's name holds no control character."""


def webhook_secret(key: bytes, endpoint_id: UUID, generation: int) -> str:
    """An endpoint's secret as Standard Webhooks writes it: `whsec_` and 32 bytes in base64. Another after each rotation."""
    derived = hmac.digest(key, _PURPOSE + endpoint_id.bytes + generation.to_bytes(4, "big"), "sha256")
    return f"whsec_{base64.b64encode(derived).decode()}"
