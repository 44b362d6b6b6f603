"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Workload = Annotated[
    str,
    typer.Argument(metavar="MODULE:FACTORY", help="The workload, e.g. examples.digits:workload.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="EXPUNGE_DATA",
        help="The stack's data folder. Default: .expunge if the current folder has one, else ~/.local/share/expunge.",
    ),
]
Tenant = Annotated[str, typer.Option(help="The tenant that owns it.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="EXPUNGE_URL", help="The API's address. Default: the stack that runs on this machine."
    ),
]
Key = Annotated[
    str, typer.Option("--key", envvar="EXPUNGE_API_KEY", prompt="API key", hide_input=True, help="The API key.")
]
