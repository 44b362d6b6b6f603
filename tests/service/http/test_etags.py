import pytest

from service.http.caching import _names


@pytest.mark.parametrize("header", ['W/"a"', '"a"', "*", '"b", W/"a"', '"b","a"'])
def test_a_known_tag_is_recognised_by_weak_comparison(header: str) -> None:
    assert _names(header, 'W/"a"')


@pytest.mark.parametrize("header", ["", '"b"', "a", 'W/"aa"'])
def test_another_tag_is_not(header: str) -> None:
    assert not _names(header, 'W/"a"')
