"""What a check came to, in words: what is proven, what is only stated, what was not looked at, and what no such check can show."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verifier.commitment import read_inclusion
from verifier.errors import Malformed, NotProven
from verifier.keys import read_keys
from verifier.log import check_entry, read_log_proof
from verifier.statement import Statement, check_logged, check_report, check_sample, check_weights, read_statement

NOT_SHOWN = (
    "That the audit was run, and run honestly: a statement is worth as much as whoever holds its key.",
    "That the samples' influence is gone: only how the attacks that were run came out against thresholds fixed before.",
    "That no other, stronger attack could find more.",
    "That the weights named are those in service, or that no copy, backup, earlier version or model made from them is left.",
    "That the time stated is right: it is the signer's own.",
    "That everybody is shown the same log: only those who compare their checkpoints would notice.",
    "That the key is whose you think it is: compare its id with one that you were given on another way.",
)
"""True of every statement, good or bad, so always told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a check came to. `refused` says why nothing is proven, where that is so."""

    proven: Sequence[str] = ()
    stated: Sequence[str] = ()
    unchecked: Sequence[str] = ()
    limits: Sequence[str] = ()
    refused: str | None = None


def told(outcome: Outcome) -> str:
    """The outcome as text to print."""
    # Not "verified": that is a verdict of the audit, and a good signature may stand under any.
    head = "NOT PROVEN" if outcome.refused else "SIGNATURE GOOD"
    parts = [
        (head, [outcome.refused] if outcome.refused else []),
        ("Proven", outcome.proven),
        ("Stated by the signer", outcome.stated),
        ("Not checked, because it was not given", outcome.unchecked),
        ("Not shown by this or any such check", NOT_SHOWN),
        ("Not shown, as the statement itself says", outcome.limits),
    ]
    return "\n\n".join(_part(title, lines) for title, lines in parts if lines or title == head)


def _part(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  - {_visible(line)}" for line in lines)])


def _visible(line: str) -> str:
    """A line that cannot move the cursor or pass for two: what is printed comes from a file of unknown origin."""
    return "".join(character if character.isprintable() else "�" for character in line)


LARGEST = 64 * 1024 * 1024
"""Bytes of a statement, report or proof that are read; more is no such file."""


def verify_files(
    statement: Path,
    *,
    keys: Sequence[Path],
    report: Path | None = None,
    weights: Path | None = None,
    sample: Path | None = None,
    log: Path | None = None,
) -> Outcome:
    """Check a signed statement, and whatever else is given against it. What is wrong is the outcome, never an exception."""
    try:
        trusted = [key for path in keys for key in read_keys(_content(path))]
        found = read_statement(_content(statement), keys=trusted)
        proven = [f"The statement is unchanged since the key {found.key.key_id} signed it."]
        unchecked = []
        if report is None:
            unchecked.append("Whether a report is the one it belongs to (--report).")
        else:
            check_report(found, _content(report))
            proven.append(f"The report {report.name} is the one it belongs to (SHA-256 {found.report_sha256}).")
        if weights is None:
            unchecked.append("Whether a file of weights is the one it is about (--weights).")
        else:
            digest = _file_sha256(weights)
            check_weights(found, digest)
            proven.append(f"The weights {weights.name} are those it is about (SHA-256 {digest}).")
        if sample is None:
            unchecked.append("Whether one's own sample is among those forgotten (--sample).")
        else:
            proof = read_inclusion(_content(sample))
            check_sample(found, proof)
            proven.append(
                f"The sample {proof.sample_id!r} of {proof.dataset!r} is among the {proof.size:,} that it commits to."
            )
        if log is None:
            unchecked.append("Whether it was written into the log at the time (--log).")
        else:
            entry = check_entry(read_log_proof(_content(log)), keys=trusted)
            check_logged(found, entry.content)
            proven.append(
                f"The result is entry {entry.index} of the log {entry.checkpoint.origin}, which had {entry.checkpoint.size} "
                f"entries at its checkpoint; the log dates it {entry.at}."
            )
    except NotProven as error:
        return Outcome(refused=str(error))
    return Outcome(
        proven=proven, stated=_stated(found), unchecked=unchecked, limits=list(map(str, found.predicate["limits"]))
    )


def _stated(statement: Statement) -> list[str]:
    told = statement.predicate
    model, manifest, method, code = told["model"], told["manifest"], told["method"], told["code"]
    before = ", ".join(str(weights["digest"]["sha256"]) for weights in told["before"])
    return [
        f"Verdict: {told['verdict']['value']}. {told['verdict']['sentence']}",
        f"Model {model['name']}, version {model.get('version_after', '?')}: weights {', '.join(statement.subjects)}.",
        f"Made from the weights {before} by {str(method['kind']).upper()}.",
        *(
            f"Held against the weights {weights['digest']['sha256']}, said to be retrained without them."
            for weights in told.get("reference", [])
        ),
        f"Forgotten: {manifest['samples']} samples, manifest root {manifest['root']}.",
        f"Signed at {told['clock']['signed_at']} by {code.get('name', '?')} {code['version']}.",
    ]


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise Malformed(f"{path.name} has more than {LARGEST:,} bytes; it is no such file.")
        return path.read_bytes()
    except OSError as error:
        raise Malformed(f"{path.name} cannot be read: {error.strerror}.") from error


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Malformed(f"{path.name} cannot be read: {error.strerror}.") from error
