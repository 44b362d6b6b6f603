"""What `expunge register --mlflow` refuses before it asks anybody; tests/connectors/test_mlflow.py has the rest."""

from pathlib import Path

import pytest

from expunge.errors import CannotRegister
from expunge.operator.mlflow import fetch_from_mlflow

ONE = '[registry]\nkind = "mlflow"\nurl = "http://127.0.0.1:1"\nmodels = ["digits"]\n'


@pytest.mark.parametrize(
    ("place", "file", "said"),
    [
        ("digits", ONE, "models:/NAME/NUMBER"),
        ("models:/digits/latest", ONE, "models:/NAME/NUMBER"),
        ("models:/digits/1", None, "has 0 connectors"),
        ("models:/digits/1", ONE.replace("digits", "reviews"), "has 0 connectors"),
        ("models:/digits/1", ONE + ONE.replace("registry", "other"), "has 2 connectors"),
        ("models:/digits/1", ONE.replace("mlflow", "mlfow"), "kind must be one of"),
        ("models:/digits/1", ONE + 'username = "ann"\n', "username needs token_file"),
        ("models:/digits/1", ONE + 'name = "a/b"\n', "name"),
        ("models:/digits/1", ONE, "does not answer"),
    ],
)
def test_what_leads_to_no_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, file: str | None, said: str
) -> None:
    monkeypatch.delenv("EXPUNGE_CONNECTORS", raising=False)
    if file is not None:
        (tmp_path / "connectors.toml").write_text(file)
        monkeypatch.setenv("EXPUNGE_CONNECTORS", str(tmp_path / "connectors.toml"))
    with (
        pytest.raises(CannotRegister, match=said),
        fetch_from_mlflow(place, model="digits", tenant="default"),
    ):
        pass
