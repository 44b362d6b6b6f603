from collections.abc import Iterator

from tests.service.conftest import Serve

PATH = "/methods"  # a path that takes no body still must not be made to read one


def test_a_declared_length_above_the_limit_is_refused_at_once(serve: Serve) -> None:
    answer = serve(max_body_bytes=1000).request("GET", PATH, content=b"x" * 1001)

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "1000 bytes" in answer.json()["detail"]


def test_a_body_of_just_the_limit_passes(serve: Serve) -> None:
    assert serve(max_body_bytes=1000).request("GET", PATH, content=b"x" * 1000).status_code == 200


def test_a_streamed_body_is_counted_while_it_comes(serve: Serve, site: object) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    headers = {"Content-Type": "application/json"}
    answer = serve(max_body_bytes=1000, key=site.writer).post("/unlearn-requests", content=pieces(), headers=headers)

    assert answer.status_code == 413
    assert answer.json()["type"] == "https://expunge.dev/problems/body-too-large"
