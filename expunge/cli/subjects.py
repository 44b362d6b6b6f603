"""The command `expunge subjects`."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.console import DataDir, ProgressDisplay, Tenant, notes, out
from report.formatting import plural

if TYPE_CHECKING:
    from ledger.registry.subjects import Assignment

subjects = typer.Typer(no_args_is_help=True, help="Tell a dataset which of its samples belong to whom.")

LISTED = 20
"""Unmatched lines that are printed; all are counted."""


@subjects.callback()
def about() -> None:
    """Tell a dataset which of its samples belong to whom."""


@subjects.command("import")
def import_subjects(
    dataset: Annotated[str, typer.Argument(help="The dataset.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A CSV file in UTF-8 whose first line names the columns; - reads standard input. Or a Parquet file, or a folder "
            "of them.",
            show_default=False,
        ),
    ] = None,
    subject_column: Annotated[str, typer.Option(help="The column with the subject.")] = "user_id",
    sample_column: Annotated[str, typer.Option(help="The column with the sample ID.")] = "sample_id",
    delimiter: Annotated[str, typer.Option(help="The character between two columns of the CSV.")] = ",",
    sql: Annotated[
        str | None,
        typer.Option(
            envvar="EXPUNGE_SUBJECTS_URL",
            help="Read from this database instead of a file: a URL of SQLAlchemy, e.g. postgresql://reader@db/crm. The environment "
            "variable keeps its password out of the shell's history.",
            show_default=False,
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            help="What to read there: a query of two columns, the subject and then the sample ID.", show_default=False
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what was assigned before, in place of adding to it.")
    ] = False,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
) -> None:
    """Assign samples to their subjects (people), from a table of user and sample. Then requests can name a person.

    Only keyed hashes are stored. Either every line is taken or none: after an error or a kill, run it again. Lines that were
    assigned before change nothing. Lines that name a sample which the dataset does not have are counted and listed by number.
    """
    from expunge.operator import subjects as operator
    from expunge.operator.deployment import find_deployment

    if (file is None) == (query is None) or (query is not None and sql is None):
        raise typer.BadParameter("Name a file (- for standard input), or --sql with a --query.")
    if len(delimiter) != 1:
        raise typer.BadParameter("--delimiter must be one character; for a tab, write $'\\t'.")
    deployment = find_deployment(data_dir)
    with ProgressDisplay() as display, _opened(file) as lines:
        task = display.add_task("Reading")
        if sql is not None and query is not None:
            rows = operator.read_query(sql, query)
        elif lines is None and file is not None:
            rows = operator.read_parquet(file, subject_column=subject_column, sample_column=sample_column)
        else:
            rows = operator.read_csv(
                lines or (), subject_column=subject_column, sample_column=sample_column, delimiter=delimiter
            )
        assigned = operator.import_subjects(
            deployment,
            dataset=dataset,
            rows=rows,
            replace=replace,
            tenant=tenant,
            show=lambda count: display.update(task, detail=f"({count:,} lines)"),
        )
    _print(assigned, dataset)


def _print(assigned: "Assignment", dataset: str) -> None:
    out.print(
        f"Read {plural(assigned.lines, 'line')} and assigned {plural(assigned.added, 'sample')} to their subjects. "
        f"{dataset!r} knows {plural(assigned.subjects, 'subject')}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if assigned.unmatched:
        listed = ", ".join(map(str, assigned.unmatched_lines[:LISTED]))
        more = ", …" if assigned.unmatched > LISTED else ""
        notes.print(
            f"{plural(assigned.unmatched, 'line')} with a sample that the dataset does not have: {listed}{more}. Register these "
            "samples first, then import the lines again.",
            style="yellow",
            soft_wrap=True,
        )


@contextmanager
def _opened(file: Path | None) -> Iterator[io.TextIOBase | None]:
    """Open a CSV file, or standard input for `-`; None for Parquet, and without a file. Raises BadParameter."""
    from expunge.operator.subjects import is_parquet

    if file == Path("-"):
        yield io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        return
    try:
        opened = None if file is None or is_parquet(file) else file.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error
    if opened is None:
        yield None
        return
    with opened:
        yield opened
