"""The operator's sheet: it comes back as it was written, and its pictures are ones that others read."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from report.sheet import InvalidSheet, Sheet, from_bytes, png, render_sheet, to_bytes, to_pictures

SAMPLES = np.linspace(-1.2, 1.2, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def test_numbers_become_shades_between_their_bounds() -> None:
    grey = to_pictures(SAMPLES[:, :1], bounds=(-1.0, 1.0))
    assert grey is not None
    assert grey.shape == (2, 4, 5)
    assert grey[0, 0, 0] == 0
    colour = to_pictures(np.where(SAMPLES > 0.5, np.nan, SAMPLES), bounds=(-1.0, 1.0))
    assert colour is not None
    assert colour.shape == (2, 4, 5, 3)
    assert int(colour[0, 1, 2, 1]) == round(255 * (float(SAMPLES[0, 1, 1, 2]) + 1) / 2)
    assert int(colour[1, 3, 4, 2]) == 0
    assert to_pictures(SAMPLES.reshape(2, -1), bounds=(-1.0, 1.0)) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_that_is_enlarged_without_smoothing(channels: int) -> None:
    pictures = to_pictures(SAMPLES[:, :channels], bounds=(-1.2, 1.2))
    assert pictures is not None
    found = np.round(255 * imread(BytesIO(png(pictures[0])))).astype(np.uint8)
    assert found.shape[:2] == (64, 80)
    assert np.array_equal(found[8::16, 8::16], pictures[0])


def test_pictures_of_28_pixels_are_shown_as_large_as_they_are_enlarged() -> None:
    """Scaled to another height by the page, some of a picture's lines are thicker than others."""
    pictures = np.zeros((2, 28, 28), dtype=np.uint8)
    assert imread(BytesIO(png(pictures[0]))).shape[:2] == (84, 84)
    styles = re.findall(r"img \{([^}]*)\}", render_sheet(Sheet(report_id="r-1", rows={"forgotten": pictures})))
    assert styles
    assert not re.search(r"(?<!max-)(height|width):", styles[0])


def test_a_sheet_comes_back_as_it_was_written_and_says_for_whom_it_is() -> None:
    pictures = to_pictures(SAMPLES, bounds=(-1.0, 1.0))
    assert pictures is not None
    sheet = Sheet(report_id="r-1", rows={"forgotten": pictures, "generated <before>": pictures[:1]})
    content = to_bytes(sheet)
    found = from_bytes(content)
    page = render_sheet(found)

    assert found.report_id == "r-1"
    assert all(np.array_equal(found.rows[title], shown) for title, shown in sheet.rows.items())
    assert list(found.rows) == list(sheet.rows)
    assert "For the operator alone" in page
    assert "Generated &lt;before&gt;" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == 3
    assert base64.b64decode(images[0]) == png(pictures[0])
    assert page.count("http") == page.count("http-equiv")


def test_texts_come_back_as_they_were_written_and_stand_beside_each_other() -> None:
    texts = {"forgotten": ["a <b>\n\u00e9", "c\x00\ud800"], "completed after": ["", "d"]}
    found = from_bytes(to_bytes(Sheet(report_id="r-1", texts=texts)))
    page = render_sheet(found)

    assert found.rows == {}
    assert found.texts == texts
    assert "<th>Forgotten</th><th>Completed after</th>" in page
    assert "<td>a &lt;b&gt;\n\u00e9</td><td></td>" in page
    assert "name people who asked to be erased" in page


def test_a_sheet_from_before_texts_were_kept_is_read() -> None:
    content = to_bytes(Sheet(report_id="r-1")).replace(b', \\"texts\\": {}', b" " * 15)
    assert b"texts" not in content
    assert from_bytes(content).texts == {}


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"{}"])
def test_a_file_that_is_no_sheet_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidSheet, match="damaged"):
        from_bytes(content)
