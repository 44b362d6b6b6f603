"""The digest that all three forms of a report carry."""

from collections.abc import Mapping

from ledger.canonical import canonical_json, canonical_sha256


def report_bytes(report: Mapping[str, object]) -> bytes:
    """The report's canonical JSON (RFC 8785): what is served, kept and signed. Raises NotCanonical."""
    return canonical_json(report)


def report_sha256(report: Mapping[str, object]) -> str:
    """SHA-256, in hex, of the canonical JSON. Raises NotCanonical."""
    return canonical_sha256(report)
