"""What a sample ID may be: one rule for data sets, requests, uploads, command lines and proofs.

IDs are compared character by character. Two IDs that differ only in case or in Unicode normalisation ("é" as one character or as
two) are two IDs: nothing is folded, because a data set may use both.
"""

import re

MAX_SAMPLE_ID_LENGTH = 200
"""Characters (Unicode code points) of an ID, at most."""

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
"""Control characters, line and paragraph separators, the byte order mark, and surrogates, which UTF-8 cannot write."""


class InvalidSampleID(ValueError):
    """A text is no sample ID. The message is a clause without the text, such as "has 201 characters; 200 are allowed"."""


def check_sample_id(text: str) -> str:
    """Return `text` if it may be a sample ID. Raises InvalidSampleID, whose message completes "The sample ID …".

    An ID has 1 to 200 characters, no blank at either end, and no control character, so that it fits on a line of a file.
    """
    if not text:
        raise InvalidSampleID("is empty")
    if len(text) > MAX_SAMPLE_ID_LENGTH:
        raise InvalidSampleID(f"has {len(text)} characters; {MAX_SAMPLE_ID_LENGTH} are allowed")
    if found := _FORBIDDEN.search(text):
        raise InvalidSampleID(f"has the control character U+{ord(found[0]):04X}")
    if text != text.strip():
        raise InvalidSampleID("begins or ends with a blank")
    return text


def line_to_id(line: str) -> str | None:
    """Return the ID on a line of a text file, without the line's end and blanks around it; None for a blank line.

    A byte order mark before it is dropped: some editors and spreadsheets begin a file with one. Raises InvalidSampleID.
    """
    stripped = line.removeprefix("\ufeff").strip()
    return check_sample_id(stripped) if stripped else None
