from pathlib import Path

import pytest

from connectors.configuration import ConnectorsInvalid, read_connectors
from connectors.model_server import HttpHook, V2Server


def test_a_file_gives_its_connectors(tmp_path: Path) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(
        '[triton]\nkind = "v2"\nurl = "http://triton:8000"\nmodels = ["digits-*"]\n'
        '[hook]\nkind = "http"\nurl = "https://example.org/hook"\ntenant = "clinic"\ntoken_file = "/run/token"\n'
    )
    triton, hook = read_connectors(file)
    assert (triton.name, triton.tenant, hook.name, hook.tenant) == ("triton", "default", "hook", "clinic")
    assert isinstance(triton.system, V2Server)
    assert isinstance(hook.system, HttpHook)
    assert [triton.concerns(model) for model in ("digits-cnn", "reviews")] == [True, False]
    assert hook.concerns("anything")


def test_without_a_file_nothing_is_connected() -> None:
    assert read_connectors(None) == ()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[triton]\nkind = 7", "kind"),
        ('[triton]\nkind = "v3"', "v2"),
        ('triton = "v2"', "table"),
        ('[triton]\nkind = "v2"', "url"),
        ('[triton]\nkind = "v2"\nurl = "http://user:secret@triton"', "url"),
        ('[triton]\nkind = "v2"\nurl = "ftp://triton"', "url"),
        ('[triton]\nkind = "v2"\nurl = "http://triton"\ntoken = "secret"', "token"),
        ('[triton]\nkind = "v2"\nurl = "http://triton"\nmodels = "digits"', "models"),
        ('[triton]\nkind = "v2"\nurl = "http://triton"\nmodels = []', "models"),
        ('[triton]\nkind = "v2"\nurl = "http://triton"\ntenant = 3', "tenant"),
        ("[triton", "connectors.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(content: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(content)
    with pytest.raises(ConnectorsInvalid, match=named) as raised:
        read_connectors(file)
    assert "secret" not in str(raised.value)
    with pytest.raises(ConnectorsInvalid, match=r"gone\.toml"):
        read_connectors(tmp_path / "gone.toml")
