import pytest

from tests.service.conftest import Serve


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nothing-here", 404, "not-found"),
        ("DELETE", "/methods", 405, "method-not-allowed"),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(
    serve: Serve, method: str, path: str, status: int, slug: str
) -> None:
    answer = serve().request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"https://expunge.dev/problems/{slug}"
    assert answer.json()["status"] == status
