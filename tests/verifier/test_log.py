import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.verifier.conftest import make_signer
from verifier.errors import BadSignature, Malformed, Mismatch, Revoked
from verifier.keys import TrustedKey, key_id
from verifier.log import TreeHead, check_consistency, open_note, read_log_checkpoint, sign_note
from verifier.merkle import leaf_hash, node_hash

SIGNER = make_signer()
KEY = TrustedKey(key_id=SIGNER.key_id, public=SIGNER.private.public_key())
LEAVES = [leaf_hash(bytes([place])) for place in range(2)]
ONE = TreeHead(origin="example.com/log", size=1, root=LEAVES[0])
TWO = TreeHead(origin="example.com/log", size=2, root=node_hash(*LEAVES))


def signed(head: TreeHead) -> bytes:
    private = SIGNER.private
    return sign_note(head.text, name=head.origin, public=private.public_key(), sign=private.sign).encode()


def test_a_note_of_gos_module_checksum_database_is_read() -> None:
    """The example in the documentation of golang.org/x/mod/sumdb/note, where the format comes from."""
    verifier = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    public = Ed25519PublicKey.from_public_bytes(verifier[1:])
    note = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    text, _ = open_note(note.encode(), keys=[TrustedKey(key_id=key_id(public), public=public)], name="PeterNeumann")
    assert text.endswith("what your problem is.\n")


def test_a_log_checkpoint_is_read_as_it_was_signed() -> None:
    note = signed(TWO)
    assert note.decode().splitlines()[:2] == ["example.com/log", "2"]
    assert read_log_checkpoint(note, keys=[KEY]) == TWO


def test_a_changed_log_checkpoint_another_key_and_a_revoked_one_are_refused() -> None:
    note = signed(TWO)
    for changed in (note.replace(b"\n2\n", b"\n3\n"), note.replace(b"example.com", b"example.org")):
        with pytest.raises(BadSignature):
            read_log_checkpoint(changed, keys=[KEY])
    other = make_signer()
    with pytest.raises(BadSignature):
        read_log_checkpoint(note, keys=[TrustedKey(key_id=other.key_id, public=other.private.public_key())])
    revoked = TrustedKey(key_id=KEY.key_id, public=KEY.public, revoked_at="2026-01-01T00:00:00Z")
    for keys in ([revoked], [revoked, KEY], [KEY, revoked]):
        with pytest.raises(Revoked):
            read_log_checkpoint(note, keys=keys)


@pytest.mark.parametrize("length", [0, 5, 30, -1, -20])
def test_a_truncated_log_checkpoint_is_refused(length: int) -> None:
    with pytest.raises((Malformed, BadSignature)):
        read_log_checkpoint(signed(TWO)[:length], keys=[KEY])


@pytest.mark.parametrize("text", ["one line\n", "log\nmany\nAAAA\n", "log\n1\nAAAA\n", "log\n-1\n" + "A" * 43 + "=\n"])
def test_a_signed_note_that_is_no_log_checkpoint_is_refused(text: str) -> None:
    private = SIGNER.private
    name = text.partition("\n")[0].replace(" ", "")
    note = sign_note(text.replace("one line", "oneline"), name=name, public=private.public_key(), sign=private.sign)
    with pytest.raises(Malformed):
        read_log_checkpoint(note.encode(), keys=[KEY])


def test_a_log_that_changed_shrank_or_is_another_is_refused() -> None:
    check_consistency(ONE, TWO, [LEAVES[1]])
    check_consistency(TWO, TWO, [])
    forked = TreeHead(origin=ONE.origin, size=1, root=LEAVES[1])
    elsewhere = TreeHead(origin="example.org/log", size=1, root=LEAVES[0])
    for older, newer, path in (
        (forked, TWO, [LEAVES[1]]),
        (ONE, TWO, [LEAVES[0]]),
        (TWO, ONE, []),
        (elsewhere, TWO, [LEAVES[1]]),
    ):
        with pytest.raises(Mismatch):
            check_consistency(older, newer, path)
