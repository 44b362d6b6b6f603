import hashlib
import hmac

import pytest
from sqlalchemy import text

from ledger.sample_ids import (
    earlier_keys,
    key_fingerprint,
    parse_sample_key,
    rehash,
    sample_digest,
    samples_sha256,
    subject_digest,
)
from ledger.tables import Base
from tests.ledger.conftest import digests


def test_a_digest_is_hmac_sha256_of_dataset_and_id():
    expected = hmac.new(b"k" * 32, b"digits\x00person-1", hashlib.sha256).digest()
    assert sample_digest(b"k" * 32, "digits", "person-1") == expected


def test_another_key_dataset_or_id_gives_another_digest():
    cases = [(b"a", "d", "1"), (b"b", "d", "1"), (b"a", "e", "1"), (b"a", "d", "2"), (b"a", "d1", "")]
    assert len({sample_digest(*case) for case in cases}) == len(cases)


def test_a_subject_and_a_sample_of_the_same_text_have_different_digests():
    expected = hmac.new(b"k" * 32, b"\x00subject\x00person-1", hashlib.sha256).digest()
    assert subject_digest(b"k" * 32, "person-1") == expected
    assert subject_digest(b"a", "1") not in {sample_digest(b"a", dataset, "1") for dataset in ("subject", "d", "")}
    assert subject_digest(b"a", "1") != subject_digest(b"b", "1")


def test_a_key_of_several_hashes_each_digest_on_to_the_next():
    old, second, third = (bytes([number]) * 32 for number in (1, 2, 3))
    on_second = hmac.digest(second, sample_digest(old, "d", "1"), "sha256")
    assert sample_digest(old + second, "d", "1") == on_second
    assert sample_digest(old + second + third, "d", "1") == hmac.digest(third, on_second, "sha256")
    assert subject_digest(old + second, "ann") == rehash(subject_digest(old, "ann"), second)
    assert earlier_keys(old + second) == [old + second, old]
    assert len({key_fingerprint(key) for key in (old, second, old + second, second + old)}) == 4


def test_a_key_is_read_whole_and_each_part_of_it_is_new():
    assert parse_sample_key("ab" * 32 + "cd" * 32) == b"\xab" * 32 + b"\xcd" * 32
    for wrong in ("", "ab" * 31, "ab" * 33, "x" * 64):
        with pytest.raises(ValueError, match="64 hex digits"):
            parse_sample_key(wrong)
    with pytest.raises(ValueError, match="same digits twice"):
        parse_sample_key("ab" * 64)


def test_the_commitment_to_a_set_does_not_depend_on_the_order():
    assert samples_sha256(digests(1, 2, 3)) == samples_sha256(digests(3, 1, 2)) != samples_sha256(digests(1, 2))


def test_no_sample_id_is_anywhere_in_the_database(world):
    world.finish(world.submit_and_claim(1, 2, 500))
    with world.sessions() as session:
        for table in Base.metadata.tables:
            rows = session.scalars(text(f"SELECT t::text FROM {table} t")).all()
            assert not [row for row in rows if "person-" in row or b"person-".hex() in row], table
