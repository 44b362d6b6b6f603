"""Make the pictures of the demo's reports that the documents show.

make demo && .venv/bin/python docs/pictures.py reports    (needs Chromium, and pdftoppm for the printed pages)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from report.document import read
from report.html import render_html
from report.pdf import render_pdf

IMAGES = Path(__file__).parent / "images"
WIDTHS = {"phone": 390, "desktop": 1280}
SCHEMES = ("light", "dark")
TOP = 1180
"""Pixels of a page that the README shows."""


def main(folder: Path) -> None:
    """Picture every report in a folder: as a page, by width and colours, and as printed pages."""
    with browser() as opened, tempfile.TemporaryDirectory() as scratch:
        for number, path in enumerate(sorted(folder.glob("*.json")), start=1):
            report = read(json.loads(path.read_text()))
            page = Path(scratch) / "report.html"
            page.write_text(render_html(report))
            for device, width in WIDTHS.items():
                for scheme in SCHEMES:
                    save(picture(opened, page, width, scheme), f"report-{number}-{device}-{scheme}")
            save(sheets(render_pdf(report), Path(scratch)), f"report-{number}-printed")
        top = Image.open(IMAGES / "report-2-desktop-light.png")
        save(top.crop((0, 0, top.width, TOP)), "report")


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, from CHROMIUM or the path."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


def picture(opened: Browser, page: Path, width: int, scheme: str) -> Image.Image:
    """The whole page, as a window of that width shows it."""
    tab = opened.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
    )
    tab.goto(page.as_uri())
    shot = page.with_suffix(".png")
    tab.screenshot(path=shot, full_page=True)
    tab.close()
    return Image.open(shot)


def sheets(pdf: bytes, folder: Path) -> Image.Image:
    """The printed pages, side by side."""
    (folder / "report.pdf").write_bytes(pdf)
    for old in folder.glob("sheet-*.png"):
        old.unlink()
    command = ["pdftoppm", "-r", "60", "-png", str(folder / "report.pdf"), str(folder / "sheet")]
    subprocess.run(command, check=True)
    pages = [Image.open(path) for path in sorted(folder.glob("sheet-*.png"))]
    width, height = pages[0].size
    row = Image.new("RGB", (len(pages) * (width + 12) - 12, height), "#888888")
    for place, one in enumerate(pages):
        row.paste(one, (place * (width + 12), 0))
    return row


def save(image: Image.Image, name: str) -> None:
    """Write a picture with few colours, which is all that such a page has: its large areas keep theirs exactly."""
    few = image.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
