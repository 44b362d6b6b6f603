import pytest

from service.http.caching import preferred

JSON, HTML = "application/json", "text/html"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html", HTML),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("application/json, text/html;q=0.9", JSON),
        ("text/html;q=0.5, application/json;q=0.4", HTML),
        ("text/*", HTML),
        ("text/html;q=0", JSON),
        ("image/png", JSON),
        ("text/html;q=many", JSON),
        (",;,", JSON),
    ],
)
def test_the_client_gets_what_it_likes_most(accept: str, chosen: str) -> None:
    assert preferred(accept, (JSON, HTML)) == chosen
