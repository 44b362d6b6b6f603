"""Run `expunge` as `python -m expunge.cli`."""

from expunge.cli.main import main

main()
