from pathlib import Path

import pytest

from connectors.managers import BodyMismatch, InvalidManagers, find, read_managers
from ledger.states import ManagedState

PORTAL = """
[portal]
reference = "/request/id"
type = { at = "/request/type", erasure = ["ERASURE", "DELETE"] }
identities = [
  { at = "/person/emails/0", subject = "{lower}" },
  { at = "/person/customer~1number", subject = "user-{value}" },
]
status = { field = "state", pending = "WAITING", completed = "DONE" }
"""
BODY = {
    "request": {"id": 4711, "type": "DELETE"},
    "person": {"emails": ["Ann@Example.org"], "customer/number": "17"},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "managers.toml"
    path.write_text(text)
    return path


def test_a_body_is_read_as_it_was_declared(tmp_path: Path) -> None:
    portal = read_managers(write(tmp_path, PORTAL))["portal"]
    portal.check_type(BODY)
    assert portal.read_reference(BODY) == "4711"
    assert portal.read_subjects(BODY) == ["ann@example.org", "user-17"]
    assert portal.read_subjects({"person": {"emails": ["Ann@Example.org"]}}) == ["ann@example.org"]
    assert portal.read_subjects({"person": {"customer/number": "{lower}A"}}) == ["user-{lower}A"]  # looks like a place
    assert portal.answer("4711", ManagedState.PENDING) == {"id": "4711", "state": "WAITING"}
    assert portal.answer("4711", ManagedState.IN_PROGRESS) == {"id": "4711", "state": "in_progress"}


@pytest.mark.parametrize(
    ("pointer", "found"),
    [("/a/0/b", 1), ("/a/1/b", None), ("/a/-1/b", None), ("/a/00/b", None), ("/a/b", None), ("/x~1y", 2), ("/~0", 3)],
)
def test_a_pointer_finds_what_rfc_6901_says(pointer: str, found: int | None) -> None:
    assert find({"a": [{"b": 1}], "x/y": 2, "~": 3}, pointer) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"request": {"id": 1, "type": "ACCESS"}, "person": {"emails": ["ann@example.org"]}},
        {"request": {"id": "ann smith", "type": "ERASURE"}, "person": {"emails": ["ann@example.org"]}},
        {"request": {"id": "a/b", "type": "ERASURE"}, "person": {"emails": ["ann@example.org"]}},
        {"request": {"id": True, "type": "ERASURE"}, "person": {"emails": ["ann@example.org"]}},
        {"request": {"type": "ERASURE"}, "person": {"emails": ["ann@example.org"]}},
        {"request": {"id": 1, "type": "ERASURE"}, "person": {"emails": [17], "customer/number": ""}},
        {"request": {"id": 1, "type": "ERASURE"}},
        {"request": "ann@example.org", "person": "ann@example.org"},
        {},
    ],
)
def test_a_body_of_another_kind_is_refused_without_its_content(tmp_path: Path, wrong: dict[str, object]) -> None:
    portal = read_managers(write(tmp_path, PORTAL))["portal"]

    def read() -> None:
        portal.check_type(wrong)
        portal.read_reference(wrong)
        portal.read_subjects(wrong)

    with pytest.raises(BodyMismatch) as raised:
        read()
    assert "ann" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[portal]", "portal.reference"),
        (PORTAL.replace("/request/id", "request.id"), "portal.reference"),
        (PORTAL.replace("{lower}", "{email}"), r"portal\.identities\.0\.subject"),
        (PORTAL.replace("[portal]", "[opendsr]"), "is no name"),
        (PORTAL.replace("[portal]", "[Portal]"), "is no name"),
        (PORTAL + 'regulation = "lgpd"\n', "regulation must be one of"),
        (PORTAL + "surprise = 1\n", "surprise"),
        (PORTAL + "quiet_hours = \n", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidManagers, match=said):
        read_managers(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManagers, match=r"managers\.toml cannot be read"):
        read_managers(tmp_path / "managers.toml")
