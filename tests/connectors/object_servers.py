"""Google's and Azure's storage on loopback: emulators where installed, and their APIs at the wire for what those cannot do.

The APIs at the wire list and delete as their references describe it. A test puts objects there; they have no content.
"""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from expunge.stack.broker import free_port
from expunge.stack.process import Program
from tests.fixtures.s3 import BUCKET
from tests.fixtures.servers import answering, answers, running
from tests.fixtures.waiting import PATIENCE

Answered = tuple[int, bytes, dict[str, str]]

ACCOUNT, KEY = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)
"""The account that Azure's emulators have, and its key, as their documentation names them."""


@dataclass
class Stall:
    """Lets one deletion wait until its client has gone: from the call of that number, from 0, on `reached` is set."""

    at: int
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass
class Stored:
    """A version of an object. held: by a hold or a policy. deleted: by soft delete. snapshot, current: of Azure."""

    name: str
    version: str
    held: bool = False
    deleted: bool = False
    snapshot: bool = False
    current: bool = False
    folder: bool = False


@dataclass
class ObjectServer:
    """What both servers have. page: objects on a page. soft_delete_days: None if the bucket has no soft delete."""

    objects: list[Stored]
    bucket: str = BUCKET
    page: int = 2
    soft_delete_days: int | None = None
    may_delete: bool = True
    stall: Stall | None = None
    deletions: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answered:
        """Do what a call asks for."""
        self.calls.append((method, target))
        url = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if method == "DELETE":
            stall, number = self.stall, self.deletions
            self.deletions += 1
            if stall is not None and number >= stall.at:
                stall.reached.set()
                assert stall.go_on.wait(120)
                return 503, b"", {}  # to a client that has gone
        return self.act(method, unquote(url.path), asked, headers)

    def act(self, method: str, path: str, asked: dict[str, str], headers: Message) -> Answered:
        """Answer by the rules of the API."""
        raise NotImplementedError

    def left(self) -> list[tuple[str, str]]:
        """The names and versions that are there, without soft-deleted ones."""
        return [(one.name, one.version) for one in self.objects if not one.deleted]

    def remove(self, one: Stored) -> None:
        """Delete a version, softly if the bucket does so."""
        if self.soft_delete_days is None:
            self.objects.remove(one)
        else:
            one.deleted = True

    def cut(self, found: list[Stored], start: str | None) -> tuple[list[Stored], str]:
        """A page, and the token of the next one."""
        begin = int(start or 0)
        return found[begin : begin + self.page], str(begin + self.page) if len(found) > begin + self.page else ""


class GoogleServer(ObjectServer):
    """Google's JSON API."""

    knows_soft_delete = True
    """Whether a bucket without a policy of soft delete answers the question what it keeps; Google's testbench does not."""
    bucket_readable = True

    def act(self, method: str, path: str, asked: dict[str, str], headers: Message) -> Answered:
        root = f"/storage/v1/b/{self.bucket}"
        if method == "GET" and path.startswith((f"/download{root}/o/", f"{root}/o/")):
            return _google(404, {"error": {"code": 404, "message": "No such object"}})
        if not path.startswith(root):
            return _google(404, {"error": {"code": 404, "message": "The specified bucket does not exist."}})
        if method == "DELETE":
            return self._delete(path.removeprefix(f"{root}/o/"), asked["generation"])
        if path == root and not self.bucket_readable:
            return _google(403, {"error": {"code": 403, "message": "storage.buckets.get"}})
        if path == root:
            seconds = str(86400 * (self.soft_delete_days or 0))
            return _google(200, {"softDeletePolicy": {"retentionDurationSeconds": seconds}})
        soft = asked.get("softDeleted") == "true"
        if soft and self.soft_delete_days is None and not self.knows_soft_delete:
            return _google(400, {"error": {"code": 400, "message": "bad request is invalid."}})
        found = [one for one in self.objects if one.deleted == soft and one.name.startswith(asked["prefix"])]
        page, token = self.cut(found, asked.get("pageToken"))
        items = [
            {"name": one.name, "generation": one.version, "updated": f"2026-11-2{i % 8}T10:00:00.123Z"}
            | ({"hardDeleteTime": "2999-01-01T00:00:00.000Z"} if soft else {})
            for i, one in enumerate(page)
        ]
        more = {"nextPageToken": token} if token else {}
        return _google(200, {"kind": "storage#objects", **({"items": items} if items else {}), **more})

    def _delete(self, name: str, generation: str) -> Answered:
        found = [one for one in self.objects if (one.name, one.version, one.deleted) == (name, generation, False)]
        if not found:
            return _google(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
        if found[0].held or not self.may_delete:
            said = "is under active Temporary hold" if found[0].held else "does not have storage.objects.delete access"
            return _google(403, {"error": {"code": 403, "message": f"person-17 {said}"}})
        self.remove(found[0])
        return 204, b"", {}


def _google(status: int, content: dict[str, object]) -> Answered:
    return status, json.dumps(content).encode(), {"Content-Type": "application/json"}


@dataclass
class AzureServer(ObjectServer):
    """Azure's REST API. versioning: of the account. folders: it has a hierarchical namespace. may_ask: for information about it.

    permanent: the account permits that soft-deleted versions and snapshots are deleted for good. expired: how many such calls
    bring a token that has expired.
    """

    versioning: bool = True
    folders: bool = False
    may_ask: bool = True
    permanent: bool = False
    expired: int = 0

    def act(self, method: str, path: str, asked: dict[str, str], headers: Message) -> Answered:
        if asked.get("restype") == "account":
            about = {"x-ms-sku-name": "Standard_LRS", "x-ms-is-hns-enabled": str(self.folders).lower()}
            return (200, b"", about) if self.may_ask else _refuse(403, "AuthorizationPermissionMismatch")
        root = f"/{ACCOUNT}/{self.bucket}"
        if path != root and not path.startswith(f"{root}/"):
            return _refuse(404, "ContainerNotFound")
        if method == "DELETE":
            return self._delete(path.removeprefix(f"{root}/"), asked, headers)
        if path != root:
            return _refuse(404, "BlobNotFound")
        include, only = asked.get("include", "").split(","), asked.get("showonly")
        if only and not self.folders:
            return _refuse(400, "InvalidQueryParameterValue")
        if self.folders and "versions" in include:
            return _refuse(409, "FeatureNotYetSupportedForHierarchicalNamespaceAccounts")

        def is_listed(one: Stored) -> bool:
            if self.folders:
                return one.deleted == (only == "deleted")
            kinds = (
                (one.deleted, "deleted"),
                (one.snapshot, "snapshots"),
                (not (one.current or one.snapshot), "versions"),
            )
            return all(not is_of or kind in include for is_of, kind in kinds)

        found = [one for one in self.objects if one.name.startswith(asked.get("prefix", "")) and is_listed(one)]
        page, token = self.cut(found, asked.get("marker"))
        blobs = "".join(map(self._describe, page))
        listed = f"<Prefix>{asked.get('prefix', '')}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{token}</NextMarker>"
        return _xml(200, f'<EnumerationResults ContainerName="{self.bucket}">{listed}</EnumerationResults>')

    def _describe(self, one: Stored) -> str:
        kept = (
            f"<RemainingRetentionDays>{(self.soft_delete_days or 1) - 1}</RemainingRetentionDays>"
            if one.deleted
            else ""
        )
        version = f"<VersionId>{one.version}</VersionId>" if self.versioning and not one.snapshot else ""
        return (
            f"<Blob><Name>{one.name}</Name>{'<Deleted>true</Deleted>' if one.deleted else ''}"
            + (f"<Snapshot>{one.version}</Snapshot>" if one.snapshot else version)
            + ("<IsCurrentVersion>true</IsCurrentVersion>" if one.current and self.versioning else "")
            + "<Properties><Last-Modified>Sat, 28 Nov 2026 10:00:00 GMT</Last-Modified><BlobType>BlockBlob</BlobType>"
            + f"{kept}</Properties>"
            + ("<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>" if one.folder else "<Metadata/>")
            + "</Blob>"
        )

    def _delete(self, name: str, asked: dict[str, str], headers: Message) -> Answered:
        of_name = [one for one in self.objects if one.name == name]
        named = asked.get("versionid") or asked.get("snapshot")
        if named:
            found = [one for one in of_name if one.version == named and one.snapshot == ("snapshot" in asked)]
        else:
            found = [one for one in of_name if one.current and not one.deleted]
        if not found:
            return _refuse(404, "BlobNotFound")
        one = found[0]
        for_good = asked.get("deletetype", "").lower() == "permanent"
        if for_good and self.expired:
            self.expired -= 1
            return _refuse(401, "InvalidAuthenticationInfo")
        if "versionid" in asked and one.current:
            return _refuse(403, "OperationNotAllowedOnRootBlob")
        if named and not self.may_delete:
            return _refuse(403, "AuthorizationPermissionMismatch")
        if one.deleted != for_good or (for_good and not self.permanent):
            return _refuse(409, "FeatureNotEnabled") if for_good else _refuse(404, "BlobNotFound")
        if one.held and not (one.current and self.versioning):
            return _refuse(409, "BlobImmutableDueToPolicy")
        if not named:
            snapshots = [other for other in of_name if other.snapshot and not other.deleted]
            if snapshots and headers["x-ms-delete-snapshots"] != "include":
                return _refuse(409, "SnapshotsPresent")
            for snapshot in snapshots:
                self.remove(snapshot)
        if for_good:
            self.objects.remove(one)
        elif one.current and self.versioning:
            one.current = False
        else:
            self.remove(one)
        return 202, b"", {"x-ms-delete-type-permanent": str(for_good).lower()}


def _xml(status: int, body: str) -> Answered:
    return status, f'<?xml version="1.0" encoding="utf-8"?>{body}'.encode(), {"Content-Type": "application/xml"}


def _refuse(status: int, code: str) -> Answered:
    status, body, headers = _xml(status, f"<Error><Code>{code}</Code><Message>person-17</Message></Error>")
    return status, body, {**headers, "x-ms-error-code": code}


@contextmanager
def google(server: GoogleServer, set_environment: Callable[[str, str], None]) -> Iterator[str]:
    """Run Google's API while the block runs; gives the URL of a prefix in its bucket, which gcsfs finds by the environment."""
    with answering(server.answer) as server.url:
        set_environment("STORAGE_EMULATOR_HOST", server.url)
        yield f"gs://{server.bucket}/production"


@contextmanager
def azure(server: AzureServer, set_environment: Callable[[str, str], None]) -> Iterator[str]:
    """The same of Azure's API, for adlfs."""
    with answering(server.answer) as server.url:
        set_environment("AZURE_STORAGE_CONNECTION_STRING", connection_to(f"{server.url}/{ACCOUNT}"))
        yield f"abfs://{server.bucket}/production"


def connection_to(url: str) -> str:
    """The connection string of an emulated account."""
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url};"


@contextmanager
def gcp_storage_emulator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with a soft delete of seven days and without versions, which gcsfs finds by the environment."""
    command = find_emulator("gcsfs", "gcp-storage-emulator")
    url = f"http://127.0.0.1:{(port := free_port())}"
    given = ("start", "--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    with running(emulator(folder, (command, *given), ready=lambda: answers(f"{url}/storage/v1/b/{BUCKET}"))):
        yield f"gs://{BUCKET}/production"


@contextmanager
def storage_testbench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of Google's own testbench, which keeps every generation, without soft delete.

    It wants another end of line in an upload than gcsfs sends: see `put_testbench`.
    """
    command = find_emulator("gcsfs", "storage-testbench")
    url = f"http://127.0.0.1:{(port := free_port())}"
    serve = (
        "import sys, testbench; from werkzeug.serving import run_simple; "
        "run_simple('127.0.0.1', int(sys.argv[1]), testbench.run(), threaded=True)"
    )
    python = str(Path(command).with_name("python"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    with running(emulator(folder, (python, "-c", serve, str(port)), ready=lambda: answers(url))):
        set_soft_delete(url, "POST", days=0)
        yield f"gs://{BUCKET}/production"


def set_soft_delete(url: str, method: str, *, days: int) -> None:
    """Create (POST) or change (PATCH) the testbench's bucket."""
    policy = {"softDeletePolicy": {"retentionDurationSeconds": 86400 * days}} if days else {}
    path = "b?project=test" if method == "POST" else f"b/{BUCKET}"
    httpx.request(
        method, f"{url}/storage/v1/{path}", json={"name": BUCKET, **policy}, timeout=PATIENCE
    ).raise_for_status()


def put_testbench(url: str, name: str) -> None:
    """Write an object to the testbench's bucket."""
    given = {"uploadType": "media", "name": name}
    answer = httpx.post(f"{url}/upload/storage/v1/b/{BUCKET}/o", params=given, content=b"weights", timeout=PATIENCE)
    answer.raise_for_status()


@contextmanager
def azurite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A container of Azurite, Microsoft's emulator of its storage, which has snapshots and neither versions nor soft delete."""
    command = find_emulator("adlfs", "azurite-blob")
    url = f"http://127.0.0.1:{(port := free_port())}/{ACCOUNT}"
    given = (f"--blobPort={port}", f"--location={folder}", "--silent", "--skipApiVersionCheck", "--disableTelemetry")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_to(url))
    with running(emulator(folder, (command, *given), ready=lambda: listens(port))):
        with import_module("azure.storage.blob").BlobServiceClient.from_connection_string(
            connection_to(url)
        ) as service:
            service.create_container(BUCKET)
        yield f"abfs://{BUCKET}/production"


def find_emulator(client: str, command: str) -> str:
    pytest.importorskip(client)
    return shutil.which(command) or pytest.skip(f"{command} is not installed")


def emulator(folder: Path, command: tuple[str, ...], *, ready: Callable[[], bool]) -> Program:
    return Program(
        name="the emulator", command=command, log=folder / "emulator.log", ready=ready, ready_within=PATIENCE
    )


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
