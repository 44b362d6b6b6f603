"""Check a signed statement, and the files given with it, and say what is proven and what is not."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from verifier.commitment import read_inclusion, read_subject_inclusion
from verifier.errors import Malformed, NotProven
from verifier.keys import TrustedKey, read_keys
from verifier.log import check_entry, read_log_proof
from verifier.method_names import short_method
from verifier.statement import (
    Statement,
    check_logged,
    check_report,
    check_sample,
    check_subject,
    check_weights,
    read_statement,
)

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of a statement, report or proof. A larger file is refused."""

NOT_SHOWN = (
    "That the audit was run, and run honestly: a statement is as trustworthy as the holder of its key.",
    "That the samples' influence is gone: only how the attacks that were run compare with thresholds fixed beforehand.",
    "That no other, stronger attack could find more.",
    "That the named weights are in service, or that no copy, backup, earlier version or model made from them is left.",
    "That the stated time is right: it is the signer's own clock.",
    "That everybody is shown the same log: only people who compare their log checkpoints would notice a difference.",
    "That the key belongs to whom you think: compare its id with one that you received in another way.",
)
"""What no such check can show. It is true of every statement, so it is always printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a check.

    proven: what the check proves. stated: what the signer states. unchecked: what was not checked because no file was given.
    limits: what the statement itself says it does not show. refused: why nothing is proven, or None.
    """

    proven: Sequence[str] = ()
    stated: Sequence[str] = ()
    unchecked: Sequence[str] = ()
    limits: Sequence[str] = ()
    refused: NotProven | None = None


def verify_files(
    statement: Path,
    *,
    keys: Sequence[Path],
    report: Path | None = None,
    weights: Path | None = None,
    sample: Path | None = None,
    subject: Path | None = None,
    log: Path | None = None,
) -> Outcome:
    """Check a signed statement and the other files given against it. A fault is reported in the outcome, never raised."""
    try:
        trusted = [key for path in keys for key in read_keys(_read(path))]
        signed = read_statement(_read(statement), keys=trusted)
        of_people = "Whether a person is among those whose samples were forgotten (--subject)."
        checks: tuple[tuple[Path | None, Callable[[Statement, Path], str], str | None], ...] = (
            (report, _prove_report, "Whether a report is the statement's report (--report)."),
            (weights, _prove_weights, "Whether a file of weights is the one that the statement is about (--weights)."),
            (sample, _prove_sample, "Whether a sample is among the forgotten ones (--sample)."),
            (subject, _prove_subject, None if signed.predicate.get("people") is None else of_people),
            (
                log,
                partial(_prove_logged, keys=trusted),
                "Whether the result was written to the log at the time (--log).",
            ),
        )
        proven = [f"The statement has not changed since the key {signed.key.key_id} signed it."]
        proven += [prove(signed, path) for path, prove, _ in checks if path is not None]
    except NotProven as error:
        return Outcome(refused=error)
    return Outcome(
        proven=proven,
        stated=_stated(signed),
        unchecked=[question for path, _, question in checks if path is None and question is not None],
        limits=list(map(str, signed.predicate["limits"])),
    )


def _prove_report(signed: Statement, path: Path) -> str:
    check_report(signed, _read(path))
    return f"The report {path.name} is the statement's report (SHA-256 {signed.report_sha256})."


def _prove_weights(signed: Statement, path: Path) -> str:
    digest = _file_sha256(path)
    check_weights(signed, digest)
    return f"The weights {path.name} are those that the statement is about (SHA-256 {digest})."


def _prove_sample(signed: Statement, path: Path) -> str:
    proof = read_inclusion(_read(path))
    check_sample(signed, proof)
    return f"The sample {proof.sample_id!r} of {proof.dataset!r} is one of the {proof.size:,} that the statement commits to."


def _prove_subject(signed: Statement, path: Path) -> str:
    proof = read_subject_inclusion(_read(path))
    check_subject(signed, proof)
    return f"The person {proof.subject!r} is one of the {proof.size:,} that the statement commits to."


def _prove_logged(signed: Statement, path: Path, *, keys: Sequence[TrustedKey]) -> str:
    entry = check_entry(read_log_proof(_read(path)), keys=keys)
    check_logged(signed, entry.content)
    return (
        f"The result is entry {entry.index} of the log {entry.checkpoint.origin}, which had {entry.checkpoint.size} entries at its "
        f"log checkpoint; the log dates it {entry.at}."
    )


def format_outcome(outcome: Outcome) -> str:
    """Format an outcome as text to print."""
    # Not "verified": that is a verdict of the audit, and a good signature may stand under any verdict.
    head = "NOT PROVEN" if outcome.refused else "SIGNATURE GOOD"
    parts = [
        (head, [str(outcome.refused)] if outcome.refused else []),
        ("Proven", outcome.proven),
        ("Stated by the signer", outcome.stated),
        ("Not checked, because no file was given", outcome.unchecked),
        ("Not shown by this or any such check", NOT_SHOWN),
        ("Not shown, as the statement itself says", outcome.limits),
    ]
    return "\n\n".join(_format_part(title, lines) for title, lines in parts if lines or title == head)


def _format_part(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  - {_printable(line)}" for line in lines)])


def _printable(line: str) -> str:
    """Replace control characters, which could move the cursor or start a new line: the text comes from an untrusted file."""
    return "".join(character if character.isprintable() else "�" for character in line)


def _stated(statement: Statement) -> list[str]:
    predicate = statement.predicate
    # The statement's format calls the commitment "manifest".
    model, commitment, method, code = predicate["model"], predicate["manifest"], predicate["method"], predicate["code"]
    exactness = predicate.get("exactness")
    exact = [] if exactness is None else [f"Exact by construction: {exactness['statement']}", *exactness["causes"]]
    certificate = predicate.get("certificate")
    if certificate is not None:
        exact += [f"Certified, not exact: {certificate['statement']}", *certificate["assumptions"]]
    people = predicate.get("people")
    named = []
    if people:
        asked = _count(people["subjects"], "person", "people")
        named.append(f"Asked for by name: {asked}, commitment {people['root']}.")
    before = ", ".join(str(weights["digest"]["sha256"]) for weights in predicate["before"])
    return [
        f"Verdict: {predicate['verdict']['value']}. {predicate['verdict']['sentence']}",
        *map(str, exact),
        f"Model {model['name']}, version {model.get('version_after', '?')}: weights {', '.join(statement.subjects)}.",
        f"Made from the weights {before} by {short_method(str(method['kind']))}.",
        *(
            f"Compared with the weights {weights['digest']['sha256']}, said to be retrained without the forgotten samples."
            for weights in predicate.get("reference", [])
        ),
        f"Forgotten: {_count(commitment['samples'], 'sample', 'samples')}, commitment {commitment['root']}.",
        *named,
        f"Signed at {predicate['clock']['signed_at']} by {code.get('name', '?')} {code['version']}.",
    ]


def _count(number: object, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Malformed(
                f"{path.name} has more than {MAX_FILE_BYTES:,} bytes; no statement, report or proof is so large."
            )
        return path.read_bytes()
    except OSError as error:
        raise Malformed(f"{path.name} cannot be read: {error.strerror}.") from error


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Malformed(f"{path.name} cannot be read: {error.strerror}.") from error
