"""Which of several representations a client wants (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str:
    """The offered media type that the Accept header likes most; the first offer where it likes none or several alike."""
    wishes = [_wish(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    return max(offers, key=lambda offer: _quality(offer, wishes))  # of equals max takes the first


def _quality(offer: str, wishes: Sequence[tuple[str, float]]) -> float:
    """What the most specific wish that fits gives the offer."""
    by_range = dict(wishes)
    for media_range in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if media_range in by_range:
            return by_range[media_range]
    return 0.0


def _wish(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return media_range, float(quality)
    except ValueError:
        return media_range, 0.0
