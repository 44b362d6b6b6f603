from sqlalchemy.orm import Session, sessionmaker

from ledger.transparency.signing_keys import register_signing_key, revoke_signing_key
from tests.service.conftest import Serve
from tests.verifier.conftest import make_signer
from verifier.keys import pem, read_keys


def test_everybody_gets_the_public_keys_as_the_file_that_the_verifier_reads(
    serve: Serve, sessions: sessionmaker[Session]
) -> None:
    signer = make_signer()
    with sessions.begin() as session:
        register_signing_key(session, key_id=signer.key_id, public_key=pem(signer.private.public_key()))
        revoke_signing_key(session, key_id=signer.key_id, reason="stolen")
    answer = serve().get("/keys")

    assert answer.status_code == 200
    (key,) = read_keys(answer.content)
    assert (key.key_id, key.revocation_reason) == (signer.key_id, "stolen")
    assert "PRIVATE" not in answer.text
