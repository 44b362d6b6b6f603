"""The operator's sheet: what a model generated, as pictures or texts, before and after. It never leaves the house.

It may show, or name, a person who asked to be erased, so it is no part of a report: nothing of it is signed, served or sent. The
worker writes it beside the weights only where the operator asks for it, and deletes it after as many days as the operator says.
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import safetensors.numpy
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from safetensors import SafetensorError

_FORMAT = "expunge-sheet-1"
_SMALLEST = 64
"""Pixels: a picture's shorter side is enlarged to this at least, by a whole factor. The page shows the result as it is."""

Pictures = NDArray[np.uint8]
"""(n, height, width) grey, or (n, height, width, 3) in colour."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sheet:
    """The sheet of one report. rows: pictures by their title, in order. texts: the same of texts, as many under each title."""

    report_id: str
    rows: Mapping[str, Pictures] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)


class InvalidSheet(Exception):
    """The file is no sheet, or damaged."""


def to_bytes(sheet: Sheet) -> bytes:
    """Serialise a sheet as a safetensors file."""
    tensors = {str(number): np.ascontiguousarray(pictures) for number, pictures in enumerate(sheet.rows.values())}
    texts = {title: list(column) for title, column in sheet.texts.items()}
    details = {"report_id": sheet.report_id, "titles": list(sheet.rows), "texts": texts}
    return safetensors.numpy.save(tensors, metadata={_FORMAT: json.dumps(details)})


def from_bytes(content: bytes) -> Sheet:
    """Read what `to_bytes` made. Raises InvalidSheet."""
    try:
        tensors = safetensors.numpy.load(content)
        size = int.from_bytes(content[:8], "little")
        details = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_FORMAT])
        rows = {title: tensors[str(number)] for number, title in enumerate(details["titles"])}
        return Sheet(report_id=details["report_id"], rows=rows, texts=details.get("texts", {}))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidSheet(f"the file is damaged or of another format ({type(error).__name__})") from error


def to_pictures(samples: NDArray[np.float32], *, bounds: tuple[float, float]) -> Pictures | None:
    """Turn samples (n, channels, height, width) with numbers within bounds into pictures; None if they are no images.

    One channel is grey, three are colours; of other numbers the first is shown. A number that is not finite is black.
    """
    if samples.ndim != 4:
        return None
    low, high = bounds
    shades = np.nan_to_num((samples - low) / (high - low)).clip(0, 1)
    pixels: Pictures = (255 * shades).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels if pixels.shape[3] == 3 else pixels[..., 0]


def render_sheet(sheet: Sheet) -> str:
    """Render a sheet as one self-contained HTML page."""
    environment = Environment(
        loader=PackageLoader("report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = [(title, [_data_url(picture) for picture in pictures]) for title, pictures in sheet.rows.items()]
    return environment.get_template("sheet.html.jinja").render(
        report_id=sheet.report_id, rows=rows, titles=list(sheet.texts), texts=_rows(sheet.texts)
    )


def _rows(texts: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Put the texts that belong together beside each other; half of a surrogate pair, which no page can hold, becomes "?"."""
    columns = ([text.encode(errors="replace").decode() for text in column] for column in texts.values())
    return [list(row) for row in zip(*columns, strict=True)]


def _data_url(picture: Pictures) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def png(picture: Pictures) -> bytes:
    """Write a picture (height, width) or (height, width, 3) as PNG, enlarged without smoothing where it is small."""
    factor = max(1, -(-_SMALLEST // min(picture.shape[:2])))
    enlarged = picture.repeat(factor, 0).repeat(factor, 1)
    height, width = enlarged.shape[:2]
    lines = b"".join(b"\x00" + line.tobytes() for line in enlarged)
    colour = 2 if enlarged.ndim == 3 else 0
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
