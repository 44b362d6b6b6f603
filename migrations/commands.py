"""Alembic called from Python, by the embedded stack and by tests."""

from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration(url: str) -> Config:
    """Build Alembic's configuration for the database at `url`. It needs no alembic.ini, so it works from an installed package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Upgrade the database at `url` to the newest revision, if it is not there already."""
    command.upgrade(configuration(url), "head")


def newest() -> str:
    """Find the newest revision by the names of the files, which are numbered in sequence."""
    return max(path.name.split("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))
