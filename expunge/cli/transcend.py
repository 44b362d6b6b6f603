"""The command `expunge transcend`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.caller import open_client
from expunge.cli.console import Key, Url, notes, out
from expunge.errors import CannotPull, ServiceError


def transcend(
    key: Key,
    declaration: Annotated[
        Path | None,
        typer.Option(envvar="EXPUNGE_TRANSCEND", help="The TOML file that declares Transcend.", show_default=False),
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=1, help="Go on, with so many seconds between two pulls. Default: pull once.")
    ] = None,
    url: Url = None,
) -> None:
    """Pull pending erasures from Transcend, and send back the results that there are. For cron, or as a process of its own.

    The key needs the scope requests:write. Prints a line for each pending job, without the person.
    """
    from connectors.transcend import InvalidTranscend, read_transcend
    from expunge.operator.transcend import pull

    if declaration is None:
        raise CannotPull("Name the file that declares Transcend: --declaration, or EXPUNGE_TRANSCEND.")
    try:
        platform = read_transcend(declaration)
    except InvalidTranscend as error:
        raise CannotPull(f"{error}.") from error
    while True:
        try:
            with open_client(url, key) as http:
                for pulled in pull(platform, http):
                    out.print(f"{pulled.request_id}  {pulled.outcome}", markup=False, highlight=False, soft_wrap=True)
        except (CannotPull, ServiceError) as error:
            if every is None:
                raise
            notes.print(str(error), markup=False, highlight=False)
        if every is None:
            return
        time.sleep(every)
