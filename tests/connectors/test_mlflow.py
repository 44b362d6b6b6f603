"""MLflow's webhooks, signed and forged, and the names of models there, without a server."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.mlflow import MessageRefused, MlflowRegistry, read_secret, read_webhook

SECRET = "a secret of the test"
SENT = 1_790_000_000
ALIAS = {"entity": "model_version_alias", "action": "created", "data": {"name": "digits", "alias": "champion"}}


def sign(body: bytes, *, secret: str = SECRET, delivery: str = "one", sent: int = SENT) -> dict[str, str]:
    """The headers of a message, as MLflow's `_generate_hmac_signature` makes them."""
    content = f"{delivery}.{sent}.{body.decode()}".encode()
    signature = base64.b64encode(hmac.new(secret.encode(), content, hashlib.sha256).digest()).decode()
    headers = {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": str(sent)}
    return {**headers, "X-MLflow-Signature": f"v1,{signature}"}


def read(headers: dict[str, str], body: bytes) -> str | None:
    lower = {name.lower(): value for name, value in headers.items()}
    message = read_webhook(lower, body, secret=SECRET.encode())
    assert (message.delivery_id, message.sent_at) == ("one", datetime.fromtimestamp(SENT, UTC))
    return message.name


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (json.dumps(ALIAS), "digits"),
        (json.dumps({"data": {"name": 7}}), None),
        (json.dumps({"data": {"name": "no text of PostgreSQL\0"}}), None),
        (json.dumps({"data": {"name": "half of a character \ud83d"}}), None),
        (json.dumps({"data": []}), None),
        ("[" * 50_000, None),
        ("no JSON", None),
        ("", None),
    ],
)
def test_a_signed_message_names_a_model_or_none(body: str, name: str | None) -> None:
    assert read(sign(body.encode()), body.encode()) == name


@pytest.mark.parametrize(
    "change",
    [
        {"X-MLflow-Signature": ""},
        {"X-MLflow-Signature": "v1,"},
        {"X-MLflow-Signature": "v1,ü"},
        {"X-MLflow-Delivery-Id": "two"},
        {"X-MLflow-Delivery-Id": ""},
        {"X-MLflow-Delivery-Id": "x" * 101},
        {"X-MLflow-Timestamp": str(SENT + 1)},
        {"X-MLflow-Timestamp": ""},
        {"X-MLflow-Timestamp": "-1"},
        {"X-MLflow-Timestamp": "9" * 400},
    ],
)
def test_a_forged_message_is_refused(change: dict[str, str]) -> None:
    body = json.dumps(ALIAS).encode()
    with pytest.raises(MessageRefused):
        read(sign(body) | change, body)


def test_so_is_one_of_another_secret_and_one_whose_body_was_changed() -> None:
    body = json.dumps(ALIAS).encode()
    with pytest.raises(MessageRefused):
        read(sign(body, secret="another secret of the test"), body)
    with pytest.raises(MessageRefused):
        read(sign(body), body.replace(b"digits", b"scores"))


@pytest.mark.parametrize("content", ["", " \n", "too short"])
def test_a_secret_that_others_could_guess_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    with pytest.raises(ValueError, match="16 characters") as raised:
        read_secret(tmp_path / "secret")
    assert "too short" not in str(raised.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_secret(tmp_path / "gone")


@pytest.mark.parametrize(
    ("template", "name", "model"),
    [
        ("{model}", "digits", "digits"),
        ("prod-{model}.v1", "prod-digits.v1", "digits"),
        ("prod", "prod", None),
        ("prod-{model}", "digits", LookupError),
        ("prod-{model}", "prod-", LookupError),
        ("ab{model}ba", "aba", LookupError),
        ("prod", "other", LookupError),
    ],
)
def test_a_name_there_is_found_here(template: str, name: str, model: str | type[LookupError] | None) -> None:
    registry = MlflowRegistry(url="http://mlflow:5000", name=template)
    if isinstance(model, type):
        with pytest.raises(model):
            registry.find_model(name)
    else:
        assert registry.find_model(name) == model
