import pytest

from service.http.headers import SECURITY_HEADERS
from tests.service.conftest import Serve


@pytest.mark.parametrize("path", ["/livez", "/methods", "/nothing", "/openapi.json"])
def test_every_answer_has_them(serve: Serve, path: str) -> None:
    headers = serve().get(path).headers

    assert SECURITY_HEADERS.items() <= {name: headers[name] for name in SECURITY_HEADERS}.items()


def test_the_page_of_the_documentation_may_load_its_script_and_nothing_else_is_loosened(serve: Serve) -> None:
    policy = serve().get("/docs").headers["content-security-policy"]

    assert "script-src 'self'" in policy
    assert policy.startswith("default-src 'none'")
