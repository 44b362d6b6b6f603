"""A data folder of the stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from expunge.stack.folder import Folder, lock_folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with lock_folder(tmp_path / "data") as folder:
        yield folder
