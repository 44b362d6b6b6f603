"""Alembic from Python: what the embedded stack and the tests call."""

from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration(url: str) -> Config:
    """Alembic's configuration for the database at `url`; needs no alembic.ini, so it works from an installed package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Bring the database at `url` to the newest revision; nothing happens when it is there already."""
    command.upgrade(configuration(url), "head")


def newest() -> str:
    """The newest revision, by the names of the files: one chain of numbers."""
    return max(path.name.split("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))
