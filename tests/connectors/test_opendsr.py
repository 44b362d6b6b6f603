from pathlib import Path

import pytest

from connectors.opendsr import InvalidOpenDsr, read_opendsr
from tests.fixtures.opendsr import DOMAIN, declare, verify


def test_what_it_signs_verifies_with_the_certificate_that_it_shows(tmp_path: Path) -> None:
    protocol = read_opendsr(declare(tmp_path))
    headers = protocol.headers(b'{"a":1}')
    assert headers["X-OpenDSR-Processor-Domain"] == DOMAIN
    verify(protocol.certificates, headers["X-OpenDSR-Signature"], b'{"a":1}')


def test_an_identity_names_a_subject_as_it_was_declared_and_what_was_not_declared_names_nobody(tmp_path: Path) -> None:
    identities = [
        ("email", "raw", "Ann@Example.org"),
        ("email", "sha256", "ab" * 32),
        ("controller_customer_id", "raw", "{lower}A"),  # looks like a place for one
        ("roku_publisher_id", "raw", "x"),
    ]
    assert read_opendsr(declare(tmp_path)).subjects(identities) == ["ann@example.org", "user-{lower}A"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"issuer": DOMAIN}, "self-signed"),
        ({"days": -1}, "not valid now"),
        ({"issued_to": "api.example.org"}, "not issued to opendsr.example.org but to api.example.org"),
        ({"signs": False}, "digitalSignature"),
        ({"key": "another"}, "not the key of the certificate"),
        ({"domain": "Not A Domain"}, "domain"),
        ({"more": "quiet_hours = -1"}, "quiet_hours"),
        ({"more": "surprise = 1"}, "surprise"),
        ({"more": "quiet_hours = "}, "not TOML"),
        ({"more": 'certificate_url = "http://example.org/x"'}, "certificate_url"),
    ],
)
def test_what_a_controller_would_refuse_is_refused_at_the_start(
    tmp_path: Path, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidOpenDsr, match=said):
        read_opendsr(declare(tmp_path, **wrong))  # type: ignore[arg-type]


def test_a_private_key_of_an_unknown_kind_is_refused_at_the_start(tmp_path: Path) -> None:
    path = declare(tmp_path)
    algorithm_1_2_3 = "MA4CAQAwBgYCKgMFAAQBAA=="
    (tmp_path / "opendsr.key").write_text(
        f"-----BEGIN PRIVATE KEY-----\n{algorithm_1_2_3}\n-----END PRIVATE KEY-----\n"
    )
    with pytest.raises(InvalidOpenDsr, match="private key"):
        read_opendsr(path)


@pytest.mark.parametrize("missing", ["opendsr.toml", "opendsr.pem", "opendsr.key"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    path = declare(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InvalidOpenDsr, match=missing):
        read_opendsr(path)


def test_a_mapping_has_one_gap_for_the_identity(tmp_path: Path) -> None:
    path = declare(tmp_path)
    path.write_text(path.read_text().replace("user-{value}", "user-{name}"))
    with pytest.raises(InvalidOpenDsr, match=r"identities\.1\.subject"):
        read_opendsr(path)
