"""The ledger's promises, each with a change of the code that breaks it; `python -m benchmarks.mutations` tries them.

A change names an expression of a module by its syntax tree, so formatting and comments do not matter. In a pattern, `_` and `_1`
match any expression and stand for it in the replacement. As a pytest plugin this module applies the changes of the promise that
the variable EXPUNGE_BROKEN_PROMISE names, whenever one of their modules is imported. No file is changed.
"""

import ast
import copy
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from sqlalchemy import create_engine, text

VARIABLE = "EXPUNGE_BROKEN_PROMISE"
WILDCARDS = ("_", "_1")


@dataclass(frozen=True, slots=True)
class Change:
    """Replace the expressions in a function, or in a whole module, that match `old`. new: "" removes an argument."""

    module: str
    function: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Promise:
    """What the ledger promises. tests: the files in tests/ledger that should notice when it is broken."""

    text: str
    tests: tuple[str, ...]
    changes: tuple[Change, ...]


class NoSuchExpression(Exception):
    """The code no longer has the expression that a change replaces."""


def promise(text: str, tests: str, *changes: tuple[str, str, str]) -> Promise:
    """Make a promise. tests: separated by blanks. changes: `module` or `module:function`, pattern, replacement."""
    parts = ((*place.partition(":")[::2], old, new) for place, old, new in changes)
    return Promise(text, tuple(tests.split()), tuple(Change(*part) for part in parts))


PROMISES = (
    promise(
        "an attempt that another has followed can write nothing",
        "jobs/test_claims.py",
        ("ledger.jobs.claims", "Job.attempt == claim.attempt", ""),
    ),
    promise(
        "an expired lease can write nothing",
        "jobs/test_claims.py",
        ("ledger.jobs.claims", "Job.lease_until > func.clock_timestamp()", ""),
    ),
    promise(
        "an expired lease takes the next attempt number",
        "jobs/test_claims.py",
        ("ledger.jobs.attempts", "job.attempt + 1", "job.attempt"),
    ),
    promise(
        "the next method takes the next attempt number",
        "jobs/test_results.py",
        ("ledger.jobs.results", "job.attempt + 1", "job.attempt"),
    ),
    promise(
        "two workers never have one model",
        "jobs/test_claims.py",
        ("ledger.jobs.claims", "job.state != JobState.QUEUED or busy is not None", "job.state != JobState.QUEUED"),
    ),
    promise(
        "no other job of a model starts while a version awaits approval",
        "jobs/test_approvals.py",
        ("ledger.jobs.claims:claim", "Job.holds_model", "Job.state.in_(LEASED)"),
    ),
    promise(
        "a job that needs approval does not run without it",
        "jobs/test_approvals.py",
        ("ledger.jobs.claims:claim", "model.approve_jobs and job.approved_at is None", "False"),
    ),
    promise(
        "a message twice is a claim once",
        "jobs/test_claims.py",
        (
            "ledger.jobs.claims",
            "job.state != JobState.QUEUED or busy is not None",
            "job.state in {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}",
        ),
    ),
    promise(
        "a model has one open job",
        "requests/test_batching.py",
        ("ledger.requests.batching", "_.on_conflict_do_nothing(index_elements=[Job.model_id], index_where=_1)", "_"),
        (
            "migrations.commands",
            "command.upgrade(_, 'head')",
            "(command.upgrade(_, 'head'), __import__('benchmarks.promises').promises.drop_index(url, 'uq_jobs_one_open_a_model'))",
        ),
    ),
    promise(
        "a closed job takes no further request",
        "requests/test_batching.py",
        ("ledger.requests.batching:_open_job", "Job.closed_at.is_(None)", "Job.id.is_not(None)"),
    ),
    promise(
        "a job does not begin before it closes",
        "requests/test_batching.py",
        ("ledger.jobs.claims", "job.closed_at is None and job.closes_at > now(session)", "False"),
    ),
    promise(
        "what was withdrawn before a job closes is not erased",
        "requests/test_batching.py",
        ("ledger.jobs.jobs:samples_of_open_job", "Target.state == RequestState.SCHEDULED", ""),
        (
            "ledger.requests.cancellation:_leave",
            "advance(_, _1, [target.id], RequestState.CANCELLED, data=data, reason=reason, detail=None, job_id=None)",
            "advance(_, _1, [target.id], RequestState.CANCELLED, data=data, reason=reason, detail=None)",
        ),
    ),
    promise(
        "every sample of every request is in its job",
        "requests/test_batching.py",
        ("ledger.jobs.jobs:samples_of_open_job", "_.distinct()", "_.distinct().limit(3)"),
    ),
    promise(
        "a request that failed is owed until it is served, withdrawn or dismissed",
        "requests/test_cancellation.py",
        ("ledger.tables.requests:is_unserved", "cls.state == failed", "cls.finished_at.is_(None)"),
    ),
    promise(
        "a retry leaves out whose request was dismissed",
        "requests/test_cancellation.py",
        ("ledger.jobs.cancellation:_keep_what_is_owed", "session.execute(_)", "None"),
    ),
    promise(
        "a cancelled job stays cancelled",
        "jobs/test_cancellation.py",
        (
            "ledger.jobs.cancellation",
            "job.state != JobState.FAILED",
            "job.state not in {JobState.FAILED, JobState.CANCELLED}",
        ),
        (
            "ledger.jobs.transitions",
            "to not in MOVES[noun].get(row.state, ())",
            "row.state != 'cancelled' and to not in MOVES[noun].get(row.state, ())",
        ),
    ),
    promise(
        "a job that was cancelled while it ran publishes nothing",
        "jobs/test_results.py",
        ("ledger.jobs.results:publish", "job.cancel_requested", "False"),
    ),
    promise(
        "a cancelled job does not go back to the queue",
        "jobs/test_cancellation.py",
        (
            "ledger.jobs.attempts",
            "job.cancel_requested or reason == Reason.CANCELLED_BY_CALLER",
            "reason == Reason.CANCELLED_BY_CALLER",
        ),
    ),
    promise(
        "a completed job cannot be cancelled",
        "jobs/test_cancellation.py",
        ("ledger.jobs.cancellation", "{JobState.COMPLETED, JobState.FAILED}", "{JobState.FAILED}"),
    ),
    promise(
        "a job publishes once",
        "jobs/test_results.py",
        (
            "ledger.jobs.results:publish",
            "lock_claimed_job(session, claim)",
            "session.get_one(Job, claim.job_id, populate_existing=True)",
        ),
    ),
    promise(
        "what is published is erased for ever",
        "jobs/test_results.py",
        ("ledger.jobs.results", "record_erasure(session, job_id=job.id, version=version)", "None"),
    ),
    promise(
        "what is published is served",
        "jobs/test_results.py",
        ("ledger.jobs.results", "set_served(session, version)", "None"),
    ),
    promise(
        "what an earlier job has erased is not erased twice",
        "jobs/test_results.py",
        ("ledger.jobs.claims", "frozenset(_) - erased", "frozenset(_)"),
    ),
    promise(
        "a request is where its least advanced model is",
        "test_states.py",
        (
            "ledger.states",
            "(_R.RECEIVED, _R.SCHEDULED, _R.RUNNING, _R.VERIFYING)",
            "(_R.VERIFYING, _R.RUNNING, _R.SCHEDULED, _R.RECEIVED)",
        ),
    ),
    promise(
        "one model's failure is not called completed",
        "test_states.py",
        (
            "ledger.states",
            "(_R.FAILED, _R.CANCELLED, _R.COMPLETED, _R.REJECTED)",
            "(_R.COMPLETED, _R.CANCELLED, _R.FAILED, _R.REJECTED)",
        ),
    ),
    promise(
        "the tries of a method are bounded",
        "jobs/test_claims.py",
        ("ledger.jobs.claims", "job.tries + 1", "job.tries"),
    ),
    promise(
        "a sweep takes back every job whose lease has expired",
        "jobs/test_claims.py",
        ("ledger.jobs.claims:sweep", "Job.state.in_(LEASED)", "Job.state == JobState.RUNNING"),
    ),
    promise(
        "a request wakes its job",
        "events/test_outbox.py",
        ("ledger.requests.batching:_open_job", "wakeups.append((job_id, closes_at))", "None"),
    ),
    promise(
        "a model that becomes free wakes its next job",
        "events/test_outbox.py",
        ("ledger.jobs.transitions", "announce_next(session, job.model_id)", "None"),
    ),
    promise(
        "a wake-up that is announced again is sent again",
        "events/test_outbox.py",
        (
            "ledger.events.outbox",
            "tuple_(OutboxEntry.id, OutboxEntry.available_at).in_(_)",
            "OutboxEntry.id.in_([wakeup.entry_id for wakeup in sent])",
        ),
    ),
    promise(
        "one idempotency key is one request, also of two sent at once",
        "requests/test_idempotency.py",
        ("ledger.requests.idempotency", "func.pg_try_advisory_xact_lock(name)", "name.is_not(None)"),
    ),
    promise(
        "one idempotency key with another body is refused",
        "requests/test_idempotency.py",
        ("ledger.requests.idempotency", "known.body_sha256 != idempotency.body_sha256", "False"),
    ),
    promise(
        "no version from before an erasure is served again",
        "registry/test_versions.py",
        ("ledger.registry.versions", "count_resurrected(session, version)", "0"),
    ),
    promise(
        "no version is trained on what was erased",
        "registry/test_versions.py",
        ("ledger.registry.versions", "count_common(session, seen, erased)", "0"),
    ),
    promise(
        "a tenant sees no other's job",
        "jobs/test_jobs.py",
        ("ledger.jobs.jobs:find_job", "Job.tenant_id == tenant_id", ""),
    ),
    promise(
        "a revoked key is refused",
        "registry/test_access.py",
        ("ledger.registry.access", "key.revoked_at is not None or _", "_"),
    ),
    promise(
        "a deadline ends on the same day of the month",
        "requests/test_deadlines.py",
        ("ledger.requests.deadlines", "monthrange(_, _1)[1]", "28"),
    ),
)


def drop_index(url: str, name: str) -> None:
    """Drop an index of a database."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"DROP INDEX {name}"))
    engine.dispose()


def apply(source: bytes | str, changes: Sequence[Change]) -> ast.Module:
    """Parse a module's source and apply the changes. Raises NoSuchExpression."""
    tree = ast.parse(source)
    for change in changes:
        scopes = [node for node in ast.walk(tree) if getattr(node, "name", "") == change.function]
        replacing = _Replace(change)
        for scope in scopes if change.function else [tree]:
            replacing.visit(scope)
        if not replacing.count:
            raise NoSuchExpression(f"{change.module} {change.function} has no expression {change.old!r}")
    return ast.fix_missing_locations(tree)


class _Replace(ast.NodeTransformer):
    def __init__(self, change: Change) -> None:
        self._old = ast.parse(change.old, mode="eval").body
        self._new = ast.parse(change.new, mode="eval").body if change.new else None
        self.count = 0

    def visit(self, node: ast.AST) -> Any:
        bound: dict[str, ast.expr] = {}
        if not isinstance(node, ast.expr) or not _matches(self._old, node, bound):
            return self.generic_visit(node)
        self.count += 1
        return self._new and _Bind(bound).visit(copy.deepcopy(self._new))


class _Bind(ast.NodeTransformer):
    def __init__(self, bound: dict[str, ast.expr]) -> None:
        self._bound = bound

    def visit_Name(self, node: ast.Name) -> ast.expr:  # ast's name
        return self._bound.get(node.id, node)


def _matches(pattern: Any, node: Any, bound: dict[str, ast.expr]) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id in WILDCARDS:
        bound[pattern.id] = node
        return isinstance(node, ast.expr)
    if isinstance(pattern, list):
        return (
            isinstance(node, list)
            and len(pattern) == len(node)
            and all(_matches(p, n, bound) for p, n in zip(pattern, node, strict=True))
        )
    if not isinstance(pattern, ast.AST):
        return bool(pattern == node)
    return type(pattern) is type(node) and all(
        _matches(getattr(pattern, field), getattr(node, field), bound) for field in pattern._fields if field != "ctx"
    )


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, changes: Sequence[Change]) -> None:
        super().__init__(name, path)
        self._changes = changes

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed source; neither read nor write bytecode files."""
        path = self.get_filename(fullname)
        return compile(apply(self.get_data(path), self._changes), path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        changes = [change for change in self._changes if change.module == fullname]
        found = PathFinder.find_spec(fullname, path, target) if changes else None
        if found is not None and found.origin is not None:
            found.loader = _Loader(fullname, found.origin, changes)
        return found


def pytest_load_initial_conftests() -> None:
    """Break the promise that VARIABLE names before anything is imported."""
    broken = os.environ.get(VARIABLE)
    if broken is not None:
        changes = [change for promise in PROMISES if promise.text == broken for change in promise.changes]
        sys.meta_path.insert(0, _Finder(changes))
