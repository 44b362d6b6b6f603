"""What the service answers to what nobody should send: `python -m benchmarks.fuzz`.

Schemathesis calls every operation of the running service's own OpenAPI document, with what it allows and with what it does not: no
5xx, no answer that it does not tell. Then thousands of bad requests, made from a good one by changing it in one to three places at
random: each must be answered with a problem of a 4xx, and afterwards no table may have a row more.
"""

import argparse
import json
import random
import string
from collections import Counter
from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import func, select

from benchmarks.serving import Served, served, training_ids
from benchmarks.writing import row, write
from expunge.operator.deployment import find_deployment, open_database
from ledger.tables import Base

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NONSENSE: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, 10**400, "", " ", "\u0000", "\ud800", "x" * 5000),
    *(
        [],
        {},
        [None],
        [[]],
        {"": None},
        [[[[[[[]]]]]]],
        "'; DROP TABLE jobs; --",
        "../../etc/passwd",
        "${jndi:ldap://x}",
    ),
]
HEADERS = {"Content-Type": "application/json"}


def main() -> None:
    """Run both, print the counts and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bad", type=int, default=10_000, help="bad requests")
    arguments.add_argument("--examples", type=int, default=40, help="calls by Schemathesis of each operation and kind")
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    with served(EXPUNGE_BATCH_WINDOW_SECONDS="3600") as service:
        service.register("fuzzed")
        bad = send_bad(service, count=chosen.bad, chance=random.Random(chosen.seed))
        calls, operations = call_all(service, examples=chosen.examples)
    counts = {
        "bad requests": sum(bad.values()),
        **{f"bad requests answered {status}": count for status, count in sorted(bad.items())},
        "rows written by them": 0,
        "operations": operations,
        "calls by Schemathesis": calls,
        "server errors": 0,
        "undocumented answers": 0,
    }
    for what, count in counts.items():
        print(f"{count:>8,} {what}")
    rows = [row([count], case=what, method="", metric="count", unit="") for what, count in counts.items()]
    print(write("fuzz", rows))


def send_bad(service: Served, *, count: int, chance: random.Random) -> Counter[int]:
    """Send bad requests and count the answers by status. Raises AssertionError at the first that is no 4xx problem."""
    before, statuses = rows_in(service), Counter[int]()
    for number in range(count):
        content = made_bad(chance)
        path = chance.choice(["/unlearn-requests", "/unlearn-requests:preview"])
        answer = service.http.post(path, content=content, headers=HEADERS)
        statuses[answer.status_code] += 1
        assert 400 <= answer.status_code < 500, (number, answer.status_code, content[:300], answer.text[:300])
        assert answer.headers["content-type"] == "application/problem+json", (number, content[:300])
        assert answer.json()["status"] == answer.status_code
        assert "Traceback" not in answer.text
    after = rows_in(service)
    assert after == before, {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    return statuses


def made_bad(chance: random.Random) -> bytes:
    """A body that no caller should send: nonsense for a required field, perhaps more of it elsewhere, perhaps broken as JSON."""
    body: Any = {"dataset": "fuzzed", "sample_ids": training_ids_once()[:2]}
    match chance.randrange(6):
        case 0:
            body["dataset"] = chance.choice([*NONSENSE, 7, ["fuzzed"], "fuzzed2"])
        case 1:
            body["sample_ids"] = chance.choice(
                [thing for thing in NONSENSE if thing != [[]]] + ["image-1", {"image-1": 1}]
            )
        case 2:
            body["sample_ids"] = [*body["sample_ids"], chance.choice([None, 1, True, [], {}, "", "x" * 300, "\ud800"])]
        case 3:
            body[word(chance)] = chance.choice(NONSENSE)
        case 4:
            del body[chance.choice(list(body))]
        case 5:
            field, values = chance.choice(list(WRONG.items()))
            body[field] = chance.choice(values)
    if chance.random() < 0.3:
        body[word(chance)] = chance.choice(NONSENSE)
    content = json.dumps(body).encode()
    if chance.random() < 0.1:
        cut = chance.randrange(1, len(content))
        content = chance.choice(
            [content[:cut], content[:cut] + b"\xff" + content[cut:], b"[" * 3000, b"\x00" + content]
        )
    return content


WRONG: dict[str, list[Any]] = {
    "models": [[], "fuzzed", [1], [None], ["nobody"], {}, 1],
    "method": [
        {},
        [],
        1,
        "lut",
        {"kind": "ltu", "steps": 0},
        {"kind": "ieu", "decay": 10**400},
        {"kind": "ltu", "stop": []},
    ],
    "regulation": ["gdrp", "", 1, [], {}],
    "received_at": ["yesterday", 1, "2999-01-01T00:00:00Z", "2026-01-01T00:00:00", "0001-01-01T00:00:00Z", []],
    "expedite": ["perhaps", 2, [], {}],
    "external_id": ["x" * 201, 1, [], "\u0000"],
    "reason": ["\u0000", 1, [], "x" * 100_000],
}


def word(chance: random.Random) -> str:
    """A field that does not exist."""
    return "x" + "".join(chance.choices(string.printable, k=chance.randrange(1, 12)))


def training_ids_once() -> list[str]:
    """The IDs, read once."""
    if not _IDS:
        _IDS.extend(training_ids())
    return _IDS


_IDS: list[str] = []


BY_THEMSELVES = {"heartbeats", "log_checkpoints", "log_head", "log_nodes"}
"""Tables into which the sweep writes: its own sign of life, and the log's signed state."""


def rows_in(service: Served) -> dict[str, int]:
    """How many rows each table has into which only callers have something written."""
    with open_database(find_deployment(service.stack.folder.root).database_url) as sessions, sessions() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
            if table.name not in BY_THEMSELVES
        }


def call_all(service: Served, *, examples: int) -> tuple[int, int]:
    """Call every operation with good and with bad data; gives how many calls, and of how many operations.

    Raises Schemathesis' failures.
    """
    schema = schemathesis.openapi.from_url(f"{service.stack.url}/openapi.json")
    headers = {"Authorization": f"Bearer {service.stack.api_key}"}
    calls = operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        operations += 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def call(case: schemathesis.Case) -> None:
                nonlocal calls
                calls += 1
                case.call_and_validate(headers=headers, checks=CHECKS)

            with suppress(Unsatisfiable):  # a call without parameters has nothing to get wrong
                call()
    return calls, operations


if __name__ == "__main__":
    main()
