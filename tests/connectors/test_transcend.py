import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from connectors.configuration import HandOverFailed
from connectors.http import Server
from connectors.transcend import (
    PAGE,
    InvalidTranscend,
    TokenRefused,
    Transcend,
    hash_job,
    make_reference,
    make_result,
    read_transcend,
    seal,
    unseal,
)
from ledger.requests.managed import Managed
from ledger.sample_ids import rehash
from ledger.states import ManagedState
from tests.fixtures.transcend import declare, make_token, public_pem, sombra

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
UNKNOWN_KIND = "-----BEGIN PUBLIC KEY-----\nMAwwBgYCKgMFAAMCAAA=\n-----END PUBLIC KEY-----\n"
"""A public key of the algorithm 1.2.3, which nobody knows."""
CLAIMS = {"value": "19530621", "iat": NOW.timestamp(), "aud": "acme"}


@pytest.fixture
def platform(tmp_path: Path) -> Transcend:
    return read_transcend(declare(tmp_path))


def test_a_token_of_sombra_gives_its_claims_also_around_a_rotation(platform: Transcend, tmp_path: Path) -> None:
    assert platform.check_token(make_token(CLAIMS), at=NOW)["value"] == "19530621"
    assert platform.check_token(make_token({**CLAIMS, "aud": ["other", "acme"]}), at=NOW)
    (tmp_path / "sombra.pem").write_text(public_pem("new") + "\n" + public_pem("sombra"))
    both = read_transcend(tmp_path / "transcend.toml")
    assert [bool(both.check_token(make_token(CLAIMS, key=key), at=NOW)) for key in ("sombra", "new")] == [True, True]


def changed(part: int, token: str) -> str:
    parts = token.split(".")
    parts[part] = parts[part][:-2] + ("AA" if parts[part][-2:] != "AA" else "BB")
    return ".".join(parts)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x.y.z",
        "ü.y.z",
        make_token(CLAIMS, key="another"),
        make_token(CLAIMS, header={"alg": "none"}),
        make_token(CLAIMS, header={"alg": "HS384"}),
        make_token(CLAIMS, header={"alg": "ES384", "crit": ["exp"]}),
        make_token(CLAIMS).rpartition(".")[0] + ".",
        changed(1, make_token(CLAIMS)),
        changed(2, make_token(CLAIMS)),
        make_token({**CLAIMS, "aud": "another"}),
        make_token({name: value for name, value in CLAIMS.items() if name != "aud"}),
        make_token({name: value for name, value in CLAIMS.items() if name != "iat"}),
        make_token({**CLAIMS, "iat": (NOW - timedelta(days=2)).timestamp()}),
        make_token({**CLAIMS, "iat": (NOW + timedelta(hours=1)).timestamp()}),
        make_token({**CLAIMS, "exp": (NOW - timedelta(hours=1)).timestamp()}),
    ],
)
def test_another_token_is_refused_without_its_content(platform: Transcend, token: str) -> None:
    with pytest.raises(TokenRefused) as raised:
        platform.check_token(token, at=NOW)
    assert "19530621" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("sombra.pem", "no key"), "no public key in PEM"),
        (("sombra.pem", UNKNOWN_KIND), "no public key in PEM"),
        (("sombra.pem", ""), "P-384"),
        (("transcend.toml", "sombra_url = 7"), "sombra_url"),
        (("more", 'regulation = "lgpd"'), "regulation"),
        (("more", "quiet_hours = -1"), "quiet_hours"),
        (("more", '[[identities]]\ntype = "email"'), "twice"),
        (("more", "surprise = 1"), "surprise"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_place(tmp_path: Path, wrong: tuple[str, str], said: str) -> None:
    where, content = wrong
    path = declare(tmp_path, more=content) if where == "more" else declare(tmp_path)
    if where != "more":
        (tmp_path / where).write_text(content)
    with pytest.raises(InvalidTranscend, match=said):
        read_transcend(path)
    (tmp_path / "sombra.pem").unlink()
    with pytest.raises(InvalidTranscend):
        read_transcend(path)


def test_a_job_is_known_by_its_request_its_identity_and_the_subject_that_this_means() -> None:
    """One identity's result is not another's, and what a wrong declaration recorded is not what the corrected one means."""
    given = [("email", "Ann", "ann"), ("email", "ann", "ann"), ("login", "ann", "ann"), ("email", "Ann", "Ann")]
    key, later = bytes(32), b"\x01" * 32
    hashes = {hash_job(UUID(int=7), *one, key=key) for one in given}
    hashes |= {hash_job(UUID(int=8), *given[0], key=key), hash_job(UUID(int=7), *given[0], key=later)}
    assert len(hashes) == 6
    assert hash_job(UUID(int=7), *given[0], key=key) in hashes
    rotated = rehash(bytes.fromhex(hash_job(UUID(int=7), *given[0], key=key)), later).hex()
    assert hash_job(UUID(int=7), *given[0], key=key + later) == rotated


def test_the_reference_of_a_job_is_drawn_anew_for_each() -> None:
    drawn = {make_reference(UUID(int=7)) for _ in range(3)}
    assert len(drawn) == 3
    assert {one.partition(".")[0] for one in drawn} == {str(UUID(int=7))}


def test_an_identity_that_looks_like_a_place_for_one_is_taken_as_it_is(platform: Transcend) -> None:
    assert platform.name_subject("userId", "{lower}A") == "user-{lower}A"


def managed(**changes: Any) -> Managed:
    given = {"state": ManagedState.IN_PROGRESS, "failed": False, "reference": "r", "callback_urls": ()}
    return Managed(tenant_id=UUID(int=1), due_at=NOW, received_at=NOW, **(given | changes))


def test_only_an_erasure_is_a_success() -> None:
    assert make_result(managed(state=ManagedState.COMPLETED)) == {}
    assert [make_result(managed(state=one)) for one in (ManagedState.PENDING, ManagedState.IN_PROGRESS)] == [None, None]
    for one in (managed(failed=True), managed(state=ManagedState.CANCELLED)):
        result = make_result(one)
        assert result is not None
        assert (result["status"], result["profileStatus"]) == ("ACTION_REQUIRED", "ERROR")


def test_a_nonce_is_kept_so_that_only_its_own_job_can_read_it() -> None:
    key, reference = bytes(32), make_reference(UUID(int=7))
    sealed = seal("nonce of ann@example.org", key=key, reference=reference)
    assert b"ann" not in sealed
    for then in (key, key + b"\x01" * 32):  # after a rotation, too
        assert unseal(sealed, key=then, reference=reference) == "nonce of ann@example.org"
    for wrong in ({"key": b"\1" * 32, "reference": reference}, {"key": key, "reference": "another"}):
        with pytest.raises(HandOverFailed, match="another one"):
            unseal(sealed, **wrong)  # type: ignore[arg-type]
    with pytest.raises(HandOverFailed):
        unseal(b"", key=key, reference=reference)


def test_all_pages_of_pending_requests_are_read_and_what_has_another_form_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sombra() as gateway:
        platform = read_transcend(declare(tmp_path, url=gateway.url))
        for number in range(PAGE + 3):
            gateway.add(number, f"person-{number}")
        found = platform.list_pending()
        assert [one and one.nonce for one in found] == [f"nonce-{number}" for number in range(PAGE + 3)]
        gateway.pending[5] = {"nonce": "x"}
        assert platform.list_pending()[4:7] == [found[4], None, found[6]]
        gateway.pending[5] = "x"
        with pytest.raises(HandOverFailed, match="another form"):
            platform.list_pending()
        monkeypatch.setattr(Server, "call", lambda *_, **__: (200, b"[" * 100_000))
        with pytest.raises(HandOverFailed, match="another form"):
            platform.list_pending()


def test_a_gateway_that_refuses_or_is_away_is_an_error_and_a_job_that_has_ended_is_none(tmp_path: Path) -> None:
    with sombra() as gateway:
        platform = read_transcend(declare(tmp_path, url=gateway.url))
        for status, said in ((500, "500"), (429, "429"), (401, "expired")):
            gateway.status = status
            for call in (platform.list_pending, lambda: platform.send_result("n", {})):
                with pytest.raises(HandOverFailed, match=said):
                    call()
        gateway.status = 409  # it has ended there, or was revoked
        platform.send_result("n", {})
        gateway.status = None
        (tmp_path / "api-key").write_text("old")
        with pytest.raises(HandOverFailed, match="401"):
            platform.list_pending()
        (tmp_path / "sombra-key").write_bytes(b"\xff")
        with pytest.raises(HandOverFailed, match="no text"):
            platform.list_pending()
        (tmp_path / "sombra-key").unlink()
        with pytest.raises(HandOverFailed, match="sombra-key"):
            platform.list_pending()
    with pytest.raises(HandOverFailed, match="does not answer"):
        read_transcend(declare(tmp_path, url="http://127.0.0.1:1")).send_result("n", json.loads("{}"))
