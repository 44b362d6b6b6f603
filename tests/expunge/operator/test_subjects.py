import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from expunge.errors import CannotImport
from expunge.operator.deployment import Deployment
from expunge.operator.subjects import Row, import_subjects, is_parquet, read_csv, read_parquet, read_query
from ledger.registry.access import ensure_tenant
from ledger.registry.datasets import register_dataset
from ledger.registry.subjects import Assignment
from ledger.sample_ids import sample_digest, subject_digest

KEY = bytes(32)


@pytest.fixture
def where(database_url: str, tmp_path: Path, sessions: sessionmaker[Session]) -> Deployment:
    """A deployment with the dataset `scans`: the samples 0 to 99."""
    with sessions.begin() as session:
        digests = [sample_digest(KEY, "scans", str(number)) for number in range(100)]
        register_dataset(session, tenant_id=ensure_tenant(session, "default"), name="scans", digests=digests)
    return Deployment(database_url=database_url, storage=tmp_path, sample_key=KEY, workloads="tests")


def imported(where: Deployment, rows: Iterable[Row], **more: bool) -> Assignment:
    return import_subjects(where, dataset="scans", rows=rows, **more)


def stored(sessions: sessionmaker[Session]) -> set[tuple[bytes, bytes]]:
    with sessions() as session:
        found = session.execute(text("SELECT subject, digest FROM subject_samples")).all()
    return {(bytes(subject), bytes(digest)) for subject, digest in found}


def hashed(*pairs: tuple[str, str]) -> set[tuple[bytes, bytes]]:
    return {(subject_digest(KEY, subject), sample_digest(KEY, "scans", sample)) for subject, sample in pairs}


def test_a_csv_file_is_read_by_the_names_of_its_columns(where: Deployment, sessions: sessionmaker[Session]) -> None:
    lines = ["sample_id,note,user_id\r\n", "7,x,ann@example.org\r\n", "\r\n", '8,"a, b\n", bob \r\n', "999,,bob\r\n"]
    found = imported(where, read_csv(lines))
    assert (found.lines, found.added, found.subjects) == (3, 2, 2)
    assert (found.unmatched, found.unmatched_lines) == (1, (5,))
    assert stored(sessions) == hashed(("ann@example.org", "7"), ("bob", "8"))


def test_columns_may_have_other_names_and_another_delimiter() -> None:
    rows = read_csv(["who;what", "ann;7"], subject_column="who", sample_column="what", delimiter=";")
    assert list(rows) == [(2, "ann", "7")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "first line must name the columns"),
        (["ann@example.org,7", "bob,8"], "first line must name the columns"),
        (["user_id,user_id,sample_id"], "'user_id' once"),
        (["user_id,sample_id", "bob,8", "ann@example.org"], "Line 3 has 1 of 2 columns"),
        (["user_id,sample_id", "ann@example.org, "], "sample ID on line 2 is empty"),
        (["user_id,sample_id", ",8"], "subject on line 2 is empty"),
        (["user_id,sample_id", "bob,8", "ann@example.org" * 20 + ",8"], "subject on line 3 has 300 characters"),
        (["user_id,sample_id", "ann@\x07example.org,8"], r"subject on line 2 has the control character U\+0007"),
        (["user_id,sample_id", '"ann@example.org"x,8'], "Line 2 is not CSV"),
        (["user_id,sample_id", '"ann@example.org,8'], "Line 2 is not CSV"),
    ],
)
def test_a_faulty_table_is_refused_by_line_without_a_quotation_and_nothing_is_written(
    where: Deployment, sessions: sessionmaker[Session], lines: list[str], message: str
) -> None:
    with pytest.raises(CannotImport, match=message) as refused:
        imported(where, read_csv(lines))
    assert "ann@" not in str(refused.value)
    assert stored(sessions) == set()


def test_a_file_in_another_encoding_is_refused(where: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("user_id,sample_id\nJos\xe9,7\n".encode("latin-1"))
    with path.open(encoding="utf-8-sig") as lines, pytest.raises(CannotImport, match="not in UTF-8"):
        imported(where, read_csv(lines))


def test_an_unknown_dataset_is_refused(where: Deployment) -> None:
    with pytest.raises(CannotImport, match="There is no dataset named 'Letters'"):
        import_subjects(where, dataset="Letters", rows=[(2, "ann", "7")])


@pytest.fixture
def crm(tmp_path: Path) -> str:
    """Another company database, with a table of users and samples."""
    url = f"sqlite:///{tmp_path / 'crm.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE owns (user_id, sample_id INTEGER)"))
        for user in ("ann", 17, None):
            connection.execute(text("INSERT INTO owns VALUES (:user, 7)"), {"user": user})
    engine.dispose()
    return url


def test_a_query_is_read_and_whole_numbers_are_ids(
    where: Deployment, sessions: sessionmaker[Session], crm: str
) -> None:
    rows = read_query(crm, "SELECT user_id, sample_id FROM owns WHERE user_id IS NOT NULL")
    assert imported(where, rows).added == 2
    assert stored(sessions) == hashed(("ann", "7"), ("17", "7"))


def test_a_query_of_postgresql_is_streamed(where: Deployment, database_url: str) -> None:
    query = "SELECT 'user-' || n / 10, n::bigint FROM generate_series(0, 24999) n"
    found = imported(where, read_query(database_url, query))
    assert (found.lines, found.added, found.subjects, found.unmatched) == (25_000, 100, 10, 24_900)
    assert found.unmatched_lines == tuple(range(101, 1101))


def test_parquet_is_read_by_name_in_batches(where: Deployment, sessions: sessionmaker[Session], tmp_path: Path) -> None:
    """One file, and a folder of several; numbers, dictionaries and other columns, more rows than a batch has."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "people.csv").write_text("user_id,sample_id\n")
    parts = tmp_path / "parts"
    parts.mkdir()
    users = pa.array(["ann", "bob"] * 6000).dictionary_encode()
    many = pa.table({"note": ["x"] * 12_000, "sample_id": [n % 100 for n in range(12_000)], "user_id": users})
    pq.write_table(many, parts / "2.parquet", row_group_size=5000)
    pq.write_table(pa.table({"user_id": [17], "sample_id": ["7"]}), parts / "1.parquet")
    assert not is_parquet(tmp_path / "people.csv")
    assert is_parquet(parts)
    assert is_parquet(parts / "1.parquet")
    found = imported(where, read_parquet(parts))
    assert (found.lines, found.added, found.unmatched) == (12_001, 101, 0)
    assert hashed(("17", "7"), ("ann", "98"), ("bob", "99")) <= stored(sessions)
    assert imported(where, read_parquet(parts / "1.parquet")).added == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["zoe"], "id": ["7"]}, "must have the columns 'sample_id' once"),
        ({"user_id": ["zoe", None], "sample_id": [7, 7]}, "subject on line 2 is missing"),
        ({"user_id": ["zoe"], "sample_id": [7.0]}, "sample ID on line 1 is a float"),
        (None, "cannot be read after row 0"),
    ],
)
def test_parquet_that_holds_something_else_is_refused(
    where: Deployment,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    columns: dict[str, list[object]] | None,
    message: str,
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "users.parquet"
    if columns is None:
        path.write_bytes(b"PAR1, and then nothing that is Parquet")
    else:
        pq.write_table(pa.table(columns), path)
    with pytest.raises(CannotImport, match=message) as refused:
        imported(where, read_parquet(path))
    assert "zoe" not in str(refused.value)
    assert stored(sessions) == set()


def test_without_pyarrow_or_without_a_file_the_import_says_what_is_missing(
    where: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CannotImport, match=r"expunge\[parquet\]"):
        imported(where, read_parquet(tmp_path))


def test_a_uuid_counts_as_its_text(where: Deployment, sessions: sessionmaker[Session], database_url: str) -> None:
    person = UUID(int=5)
    imported(where, read_query(database_url, f"SELECT '{person}'::uuid, 7"))
    assert stored(sessions) == hashed((str(person), "7"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT user_id, sample_id FROM owns", "subject on line 3 is missing"),
        ("SELECT sample_id FROM owns", "gives 1 columns"),
        ("SELECT 'ann', 1.5", "sample ID on line 1 is a float"),
        ("SELECT 'ann', 7 FROM nowhere", "query failed"),
    ],
)
def test_a_query_that_gives_something_else_is_refused(
    where: Deployment, sessions: sessionmaker[Session], crm: str, query: str, message: str
) -> None:
    with pytest.raises(CannotImport, match=message):
        imported(where, read_query(crm, query))
    assert stored(sessions) == set()


@pytest.mark.parametrize(
    "url",
    [
        "no url",
        "oracle://db/crm",
        "nonsense://db/crm",
        "postgresql://me:pa@ss:secret@db/crm",
        "mysql://me:secret@db:x/crm",
    ],
)
def test_a_database_that_cannot_be_opened_is_refused(where: Deployment, url: str) -> None:
    with pytest.raises(CannotImport, match="cannot be opened") as refused:
        imported(where, read_query(url, "SELECT 1, 2"))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("colons", ["' :ann'", "'100 %s'", "(ARRAY['x', 'y'])[:1]"])
def test_a_query_is_sent_as_it_is(where: Deployment, database_url: str, colons: str) -> None:
    rows = read_query(database_url, f"SELECT 'ann', 7 WHERE {colons} IS NOT NULL")
    assert imported(where, rows).added == 1


def test_a_value_that_the_database_cannot_convert_is_not_quoted(where: Deployment, database_url: str) -> None:
    query = "SELECT 7, n::integer FROM (VALUES ('7'), ('ann@example.org')) given (n)"
    with pytest.raises(CannotImport, match="could not convert a value") as refused:
        imported(where, read_query(database_url, query))
    assert "ann" not in str(refused.value)


def test_an_import_that_is_killed_has_written_nothing_and_can_be_repeated(
    where: Deployment, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", where.database_url)
    monkeypatch.setenv("EXPUNGE_STORAGE", str(where.storage))
    monkeypatch.setenv("EXPUNGE_SAMPLE_KEY", KEY.hex())
    command = [sys.executable, "-m", "expunge.cli", "subjects", "import", "scans", "-"]
    heading, lines = "user_id,sample_id\n", "".join(f"user-{number % 7},{number % 100}\n" for number in range(30_000))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stdin is not None
        assert killed.stderr is not None
        killed.stdin.write(heading + lines)
        killed.stdin.flush()
        killed.stderr.readline()  # It has begun, and is in the middle of its table.
        killed.kill()
    assert stored(sessions) == set()
    again = subprocess.run(command, input=heading + lines, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "30,000 lines" in again.stdout
    assert len(stored(sessions)) == 700
