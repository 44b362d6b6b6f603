"""Signed statements about an unlearning job: an in-toto Statement v1 in a DSSE v1.0.0 envelope, signed with Ed25519.

DSSE: github.com/secure-systems-lab/dsse.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature

from verifier.commitment import Inclusion, SubjectInclusion, check_inclusion, check_subject_inclusion
from verifier.errors import UNREADABLE, BadSignature, Malformed, Mismatch, read_json
from verifier.keys import TrustedKey, choose_valid, named

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://expunge.dev/attestations/unlearning/v1"
VERDICTS = ("verified", "inconclusive", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement whose signature was checked. subjects: SHA-256, hex, of the new weights. predicate: what is stated about them."""

    key: TrustedKey
    subjects: tuple[str, ...]
    predicate: Mapping[str, Any]

    @property
    def report_sha256(self) -> str:
        """The SHA-256, hex, of the statement's report."""
        return str(self.predicate["report"]["sha256"])


def read_statement(data: bytes, *, keys: Sequence[TrustedKey]) -> Statement:
    """Read a signed statement. Raises Malformed, BadSignature, Revoked."""
    payload, key = open_envelope(data, payload_type=PAYLOAD_TYPE, keys=keys)
    try:
        found = read_json(payload)
        if (found["_type"], found["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise Malformed(f"It is signed, but it is not a statement about unlearning: {found['predicateType']!r}.")
        statement = Statement(
            key=key,
            subjects=tuple(str(subject["digest"]["sha256"]) for subject in found["subject"]),
            predicate=found["predicate"],
        )
        _check_predicate(statement.predicate)
    except UNREADABLE as error:
        raise Malformed(f"It is signed, but the statement is incomplete ({error}).") from error
    if not statement.subjects:
        raise Malformed("It is signed, but the statement names no weights.")
    return statement


def _check_predicate(predicate: Mapping[str, Any]) -> None:
    """Check that every field that is printed is present. Raises ValueError, KeyError or TypeError."""
    if predicate["verdict"]["value"] not in VERDICTS:
        raise ValueError(f"{predicate['verdict']['value']!r} is not a verdict")
    for group, name in (
        ("report", "id"),
        ("report", "sha256"),
        ("model", "name"),
        ("manifest", "root"),
        ("manifest", "samples"),
        ("method", "kind"),
        ("code", "version"),
        ("clock", "signed_at"),
        ("verdict", "sentence"),
    ):
        predicate[group][name]
    bytes.fromhex(predicate["manifest"]["root"])
    int(predicate["manifest"]["samples"])
    # Statements about requests that name no people, and older ones, have none.
    people = predicate.get("people") or {"root": "", "subjects": 0}
    bytes.fromhex(people["root"])
    int(people["subjects"])
    # Statements about methods that approximate, and older ones, have none.
    exactness = predicate.get("exactness") or {"statement": "", "causes": []}
    exactness["statement"]
    certificate = predicate.get("certificate") or {"statement": "", "assumptions": []}
    certificate["statement"]
    # Statements signed before reference models existed have none.
    lists = {
        "limits": predicate["limits"],
        "before": predicate["before"],
        "reference": predicate.get("reference", []),
        "causes": exactness["causes"],
        "assumptions": certificate["assumptions"],
    }
    for name, found in lists.items():
        if not isinstance(found, list):
            raise TypeError(f"{name} must be a list")
    for weights in [*lists["before"], *lists["reference"]]:
        weights["digest"]["sha256"]


def check_report(statement: Statement, report: bytes) -> None:
    """Check that these bytes are the statement's report: its canonical JSON, as GET /reports/{id} returns it. Raises Mismatch."""
    found = hashlib.sha256(report).hexdigest()
    if found != statement.report_sha256:
        raise Mismatch(f"The statement is about another report: {statement.report_sha256}, not {found}.")


def check_weights(statement: Statement, sha256: str) -> None:
    """Check that weights, given by the SHA-256 of their file, are a subject of the statement. Raises Mismatch."""
    if sha256 in {str(before["digest"]["sha256"]) for before in statement.predicate["before"]}:
        raise Mismatch("These are the weights from before the unlearning.")
    if sha256 not in statement.subjects:
        raise Mismatch(f"The statement is about other weights: {', '.join(statement.subjects)}, not {sha256}.")


def check_logged(statement: Statement, content: Mapping[str, Any]) -> None:
    """Check that the content of a log entry is this statement's report. Raises Mismatch."""
    report = content.get("report")
    if not isinstance(report, dict) or report.get("sha256") != statement.report_sha256:
        raise Mismatch("The log entry is about another report, or about none.")


def check_sample(statement: Statement, proof: Inclusion) -> None:
    """Check that a sample is in the statement's commitment. Raises Mismatch."""
    commitment = statement.predicate["manifest"]
    _check_report_id(statement, proof.report_id)
    check_inclusion(proof, root=bytes.fromhex(str(commitment["root"])), size=int(commitment["samples"]))


def check_subject(statement: Statement, proof: SubjectInclusion) -> None:
    """Check that a person is in the statement's commitment to people. Raises Mismatch."""
    commitment = statement.predicate.get("people")
    _check_report_id(statement, proof.report_id)
    if not commitment:
        raise Mismatch(
            "The statement commits to no people: its requests named none, or it was signed before this was done."
        )
    check_subject_inclusion(proof, root=bytes.fromhex(str(commitment["root"])), size=int(commitment["subjects"]))


def _check_report_id(statement: Statement, report_id: str) -> None:
    if report_id != str(statement.predicate["report"]["id"]):
        raise Mismatch(f"The proof of inclusion is for the report {report_id}, not for this statement's.")


def encoded(payload_type: str, payload: bytes) -> bytes:
    """Encode the type and the payload as the bytes that are signed (PAE, pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(payload_type: str, payload: bytes, *, key_id: str, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Sign a payload and return its envelope with one signature."""
    signature = sign(encoded(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(data: bytes, *, payload_type: str, keys: Sequence[TrustedKey]) -> tuple[bytes, TrustedKey]:
    """Return the payload of an envelope that one of the keys signed, and that key.

    Every key is tried: the envelope's `keyid` is only a hint, which anybody could write. A payload of another type is refused
    even if its signature is good. Raises Malformed, BadSignature, Revoked.
    """
    try:
        found = read_json(data)
        kind, payload = str(found["payloadType"]), _bytes(found["payload"])
        signatures = [_bytes(one["sig"]) for one in found["signatures"]]
    except UNREADABLE as error:
        raise Malformed("The file is not a DSSE envelope, or it is not complete.") from error
    signed_by = [key for key in keys for one in signatures if _is_good(key, one, encoded(kind, payload))]
    if not signed_by:
        raise BadSignature(
            f"None of the given keys ({named(keys)}) signed this: it was changed, or another key signed it."
        )
    signer = choose_valid(signed_by)
    if kind != payload_type:
        raise Malformed(f"The signed payload is of the type {kind!r}, not {payload_type!r}.")
    return payload, signer


def _is_good(key: TrustedKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.public.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _bytes(text: object) -> bytes:
    """Decode base64 in either of its alphabets, as the specification requires."""
    if not isinstance(text, str):
        raise TypeError("base64 is text")
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
