"""MLflow's webhooks: signed messages that somebody has changed something in the registry.

A message is a hint and never a fact: whoever gets one asks MLflow itself. MLflow signs as Standard Webhooks do, with headers of its
own: HMAC-SHA256 over the delivery's ID, the time of sending and the body (mlflow/webhooks/delivery.py).
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

MAX_BODY = 64 * 1024
"""Bytes of a message. A description or a tag may be long; all that is read of it is a name."""

MIN_SECRET = 16
"""Characters of a secret: with an empty one anybody could sign."""

_ID = re.compile(r"[!-~]{1,100}")
_SECONDS = re.compile(r"[0-9]{1,11}")


class InvalidSecret(ValueError):
    """The file of a secret cannot be read, or holds none. The message says why."""


class MessageRefused(Exception):
    """A message is not signed with the secret of the connector. The message says what is missing or wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a message says: its ID, when it was sent, and the registered model that it is about, if it names one."""

    delivery_id: str
    sent_at: datetime
    name: str | None


def read_secret(path: Path) -> bytes:
    """Read the secret that MLflow signs with, UTF-8. Raises InvalidSecret; a message never quotes it."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidSecret(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSecret(f"{path} must hold a secret in UTF-8") from None
    if len(secret) < MIN_SECRET:
        raise InvalidSecret(f"{path} must hold a secret of {MIN_SECRET} characters or more")
    return secret.encode()


def read_message(headers: Mapping[str, str], body: bytes, *, secret: bytes) -> Message:
    """Check the signature of a message, and only then read it. Raises MessageRefused."""
    delivery_id, sent = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    if not _ID.fullmatch(delivery_id) or not _SECONDS.fullmatch(sent):
        raise MessageRefused("X-MLflow-Delivery-Id and X-MLflow-Timestamp must be there")
    signed = f"{delivery_id}.{sent}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256))
    if not hmac.compare_digest(expected, headers.get("x-mlflow-signature", "").encode()):
        raise MessageRefused("X-MLflow-Signature is not that of the connector's webhook_secret_file")
    return Message(delivery_id=delivery_id, sent_at=datetime.fromtimestamp(int(sent), UTC), name=_name(body))


def _name(body: bytes) -> str | None:
    """Find the name of the registered model; None if the body has none that could be one, and so may be about any."""
    try:
        name = json.loads(body)["data"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and name.isprintable() else None
