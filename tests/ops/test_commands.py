"""The images' own commands, run as they stand in Dockerfile and docker-compose.yml, without the containers around them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from expunge.stack import stack
from expunge.stack.broker import free_port
from expunge.stack.folder import Folder
from tests.fixtures.servers import answering
from tests.fixtures.waiting import await_that
from tests.ops.files import ROOT, compose
from tests.service.conftest import NOWHERE, SAMPLE_KEY

API = (ROOT / "Dockerfile").read_text().split(" AS api\n")[1].split("\nFROM ")[0]


def command(keyword: str) -> list[str]:
    """A command of the API's image: CMD, or the HEALTHCHECK's; `python` is this one."""
    indent = {"CMD": "", "HEALTHCHECK": "    "}[keyword]
    (found,) = re.findall(rf"^{indent}CMD (\[.*\])$", API, flags=re.MULTILINE)
    return [*map(str, json.loads(found))]


def environment(database_url: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"DATABASE_URL": database_url, "REDIS_URL": NOWHERE, "EXPUNGE_SAMPLE_KEY": SAMPLE_KEY, "PATH": path}
    return {**os.environ, **given}


def test_the_apis_command_serves_and_its_health_check_is_content(tmp_path: Path) -> None:
    port = str(free_port())
    serve = [part.replace("8000", port) for part in command("CMD")]
    check = [part.replace("8000", port) for part in command("HEALTHCHECK")]
    given = environment("postgresql://nobody@127.0.0.1:1/nothing")
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            ["sh", str(ROOT / "ops/containers/entrypoint"), *serve], cwd=ROOT, env=given, stdout=log, stderr=log
        ) as api,
    ):
        try:

            def listens_or_ended() -> bool:
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(port))):
                    return True
                return api.poll() is not None

            await_that(listens_or_ended, "the API to listen")
            assert api.poll() is None, (tmp_path / "log").read_text()
            assert subprocess.run(check, env=given, capture_output=True).returncode == 0
        finally:
            api.terminate()
    assert api.returncode in {0, -signal.SIGTERM}, (tmp_path / "log").read_text()


def test_the_gpu_exporters_health_check_tells_well_from_unwell() -> None:
    """It runs in an image that has bash and hardly anything else; here against a server that answers as the exporter does."""
    _, *check = compose()["services"]["dcgm-exporter"]["healthcheck"]["test"]

    well = {"/health"}
    with answering(lambda _method, target, *_: (200 if target in well else 503, b"")) as url:
        port = str(urlsplit(url).port)
        asked = [part.replace("9400", port).replace("$$", "$") for part in check]  # as Compose does
        asked[0] = str(shutil.which("bash"))
        assert subprocess.run(asked, timeout=60, env={"PATH": ""}).returncode == 0
        well.clear()
        assert subprocess.run(asked, timeout=60, env={"PATH": ""}).returncode != 0
    assert subprocess.run(asked, timeout=60, capture_output=True).returncode != 0


def test_the_migration_service_brings_an_empty_database_to_the_newest_revision(blank_database_url: str) -> None:
    run = ["sh", str(ROOT / "ops/containers/entrypoint"), *compose()["services"]["migrate"]["command"]]
    found = subprocess.run(run, cwd=ROOT, env=environment(blank_database_url), capture_output=True, text=True)

    assert found.returncode == 0, found.stderr
    newest = max(path.name for path in (ROOT / "migrations/versions").glob("[0-9]*.py")).split("_")[0]
    with psycopg.connect(blank_database_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (newest,)


def test_the_embedded_stack_runs_the_commands_of_the_images(tmp_path: Path) -> None:
    """But for paths, addresses and the interpreter in front."""
    folder, own = Folder(tmp_path), {"--schedule", "--host", "--port", "--timeout-graceful-shutdown"}

    def options(words: Sequence[str]) -> list[str]:
        words = list(words[words.index("-m") + 1 :] if "-m" in words else words)
        return [word for before, word in pairwise(["", *words]) if before not in own]

    api, worker = (
        list(map(str, json.loads(re.findall(r"^CMD (\[.*\])$", stage, flags=re.MULTILINE)[-1])))
        for stage in (API, (ROOT / "Dockerfile").read_text().split(" AS worker\n")[1])
    )
    assert options(stack.api(folder, {}, host="127.0.0.1", port=8000).command) == options(api)
    assert options(stack.worker(folder, {}).command) == options(worker)
    beat = compose()["services"]["beat"]["command"]
    assert set(options(stack.beat(folder, {}).command)) == set(options(beat))
