import base64
from uuid import UUID

from ledger.events.webhooks import webhook_secret
from ledger.sample_ids import sample_digest

KEY, ENDPOINT = bytes(range(32)), UUID(int=7)


def test_a_secret_has_the_standards_form_and_stays_the_same():
    secret = webhook_secret(KEY, ENDPOINT, 1)
    assert secret.startswith("whsec_")
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"))) <= 64
    assert secret == webhook_secret(KEY, ENDPOINT, 1)


def test_another_endpoint_generation_or_key_gives_another_secret():
    secrets = {
        webhook_secret(KEY, ENDPOINT, 1),
        webhook_secret(KEY, ENDPOINT, 2),
        webhook_secret(KEY, UUID(int=8), 1),
        webhook_secret(bytes(32), ENDPOINT, 1),
    }
    assert len(secrets) == 4


def test_no_sample_of_a_named_dataset_has_a_secret_for_its_digest():
    digest = sample_digest(KEY, "webhook secret", "")
    assert base64.b64encode(digest).decode() not in webhook_secret(KEY, ENDPOINT, 1)
