"""The checks of one signed statement, put together."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from verifier.errors import Malformed, NotProven
from verifier.keys import read_keys
from verifier.log import check_entry, read_log_proof
from verifier.manifest import read_inclusion
from verifier.outcome import Outcome
from verifier.statement import Statement, check_logged, check_report, check_sample, check_weights, read_statement

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
