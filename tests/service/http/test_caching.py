import pytest

from service.http.caching import matches, preferred

JSON, HTML = "application/json", "text/html"


@pytest.mark.parametrize("header", ['W/"a"', '"a"', "*", '"b", W/"a"', '"b","a"'])
def test_a_known_tag_matches_by_weak_comparison(header: str) -> None:
    assert matches(header, 'W/"a"')


@pytest.mark.parametrize("header", ["", '"b"', "a", 'W/"aa"'])
def test_another_tag_does_not_match(header: str) -> None:
    assert not matches(header, 'W/"a"')


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
def test_the_client_gets_the_media_type_that_it_prefers(accept: str, chosen: str) -> None:
    assert preferred(accept, (JSON, HTML)) == chosen
