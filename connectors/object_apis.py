"""The APIs of object storages: how S3, Google Cloud Storage and Azure each list and delete the versions of an object.

An old version is one that an overwriting or a deletion has left: S3's versions and delete markers, Google's generations, Azure's
versions and snapshots. Soft delete is another thing: Google and Azure keep what was deleted for some days, in which it can be
restored. Google deletes it earlier for nobody; Azure deletes versions and snapshots earlier if the account permits it.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

LISTED = 1000
"""Objects that S3 and Google list, and S3 deletes, in one call."""

S3_CONFIG: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}}
"""What the client of S3 is given beside what it finds in the environment."""

UNSUPPORTED = "HierarchicalNamespace"
"""In the code of Azure's answer to an account with folders (hierarchical namespace), which has no versions."""


@dataclass(frozen=True, slots=True)
class Version:
    """A stored version of an object. path: bucket and name. key: what names the version in a call of the storage's client."""

    path: str
    changed_at: datetime
    key: Mapping[str, str]


class NoBucket(Exception):
    """There is no such bucket."""


class ObjectAPI(Protocol):
    """What differs between the storages. fs: the storage's client. prefix: a bucket and the beginning of names in it."""

    client: str
    """The library that is the client, and the extra that installs it."""
    extra: str
    may_keep: str
    """A question that names what may keep a version from being deleted."""

    def options(self) -> dict[str, Any]:
        """Return what the client is given. Raises ImportError if a library is missing."""

    def list_versions(self, fs: Any, prefix: str) -> Iterator[Version]:
        """List all versions, without what was soft-deleted. Raises NoBucket."""

    def delete_versions(self, fs: Any, path: str, versions: Sequence[Version]) -> set[str]:
        """Delete versions of an object, and return the codes of refusals: what they concern is still listed.

        Some storages keep the current version, once deleted, as an old one.
        """

    def list_soft_deleted(self, fs: Any, prefix: str) -> Iterator[tuple[str, datetime]]:
        """List the paths of what was deleted and can be restored, and until when at the latest. Raises NoBucket."""

    def delete_unfinished(self, fs: Any, prefix: str, *, limit: datetime) -> int:
        """Delete the parts of uploads that began before a time and never ended, and return how many uploads those were."""


@functools.cache
def _descriptions() -> Any:
    """Return the loader of botocore's descriptions of S3. All sessions share it, because reading them is most of a session's cost.

    It holds no credential.
    """
    from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # it ships no types

    return AioSession().get_component("data_loader")


class S3:
    """S3, and what speaks its API. Deleted versions are gone at once."""

    client, extra = "s3fs", "s3"
    may_keep = "Does the bucket lock objects (Object Lock), or is s3:DeleteObjectVersion not allowed?"

    def options(self) -> dict[str, Any]:
        """Give limits of time, and a session whose uploads do not ask for the server's consent first (`Expect: 100-continue`).

        The client would wait for it without a limit.
        """
        from aiobotocore.session import AioSession
        from botocore.handlers import add_expect_header  # type: ignore[import-untyped]

        session = AioSession()
        session.register_component("data_loader", _descriptions())
        session.unregister("before-call.s3", add_expect_header)
        return {"config_kwargs": {**S3_CONFIG}, "session": session}

    def list_versions(self, fs: Any, prefix: str) -> Iterator[Version]:
        """List versions and delete markers."""
        bucket, _, prefix = prefix.partition("/")
        marker: dict[str, str] = {}
        while True:
            page = fs.call_s3("list_object_versions", Bucket=bucket, Prefix=prefix, MaxKeys=LISTED, **marker)
            for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield Version(f"{bucket}/{found['Key']}", found["LastModified"], {"VersionId": found["VersionId"]})
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def delete_versions(self, fs: Any, path: str, versions: Sequence[Version]) -> set[str]:
        """Delete a thousand versions in a call."""
        bucket, _, key = path.partition("/")
        refused: set[str] = set()
        for start in range(0, len(versions), LISTED):
            chosen = [{"Key": key, **version.key} for version in versions[start : start + LISTED]]
            answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": chosen, "Quiet": True})
            refused.update(str(error.get("Code")) for error in answer.get("Errors", ()))
        return refused

    def list_soft_deleted(self, fs: Any, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Nothing: S3 has no soft delete."""
        return iter(())

    def delete_unfinished(self, fs: Any, prefix: str, *, limit: datetime) -> int:
        """Abort multipart uploads, which S3 keeps and nobody sees."""
        bucket, _, prefix = prefix.partition("/")
        found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])
        old = [upload for upload in found if upload["Initiated"] <= limit]
        for upload in old:
            fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)


class Google:
    """Google Cloud Storage, by its JSON API."""

    client, extra = "gcsfs", "gcs"
    may_keep = "Is it under a retention policy or a hold, or is storage.objects.delete not allowed?"

    def options(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def list_versions(self, fs: Any, prefix: str) -> Iterator[Version]:
        """List live and noncurrent generations."""
        bucket = prefix.partition("/")[0]
        for found in self._list(fs, prefix, versions="true"):
            key = {"generation": str(found["generation"])}
            yield Version(f"{bucket}/{found['name']}", datetime.fromisoformat(found["updated"]), key)

    def delete_versions(self, fs: Any, path: str, versions: Sequence[Version]) -> set[str]:
        """Delete generations, one after the other."""
        bucket, _, name = path.partition("/")
        refused: set[str] = set()
        for version in versions:
            try:
                fs.call("DELETE", "b/{}/o/{}", bucket, name, **version.key)
            except FileNotFoundError:
                pass  # It is gone: an earlier try, or another process, has deleted it.
            except Exception as error:
                if not is_refusal(error):
                    raise
                refused.add("forbidden")
        return refused

    def list_soft_deleted(self, fs: Any, prefix: str) -> Iterator[tuple[str, datetime]]:
        """List soft-deleted generations. A bucket without a policy of soft delete may refuse the question."""
        bucket = prefix.partition("/")[0]
        try:
            for found in self._list(fs, prefix, softDeleted="true"):
                yield f"{bucket}/{found['name']}", datetime.fromisoformat(found["hardDeleteTime"])
        except Exception as error:
            if status_of(error) not in (400, 412):
                raise
            policy = fs.call("GET", "b/{}", bucket, json_out=True, fields="softDeletePolicy").get("softDeletePolicy")
            if int((policy or {}).get("retentionDurationSeconds", 0)):
                raise

    def delete_unfinished(self, fs: Any, prefix: str, *, limit: datetime) -> int:
        """Nothing: Google deletes what a broken-off upload has left after a week, and nobody can read it."""
        return 0

    def _list(self, fs: Any, prefix: str, **chosen: str) -> Iterator[dict[str, Any]]:
        bucket, _, prefix = prefix.partition("/")
        token = None
        while True:
            given = {"prefix": prefix, "maxResults": LISTED, "pageToken": token, **chosen}
            try:
                page = fs.call("GET", "b/{}/o", bucket, json_out=True, **given)
            except FileNotFoundError:
                raise NoBucket from None
            yield from page.get("items", ())
            token = page.get("nextPageToken")
            if not token:
                return


class Azure:
    """Azure Blob Storage, by the client of its SDK that adlfs has, which runs in adlfs' own loop.

    An account with folders (hierarchical namespace) has no versions, and lists what was soft-deleted in a call of its own.
    """

    client, extra = "adlfs", "azure"
    may_keep = (
        "Is it under an immutability policy, a legal hold or a lease, or is deleting a version "
        "(blobs/deleteBlobVersion/action) not allowed?"
    )

    def __init__(self) -> None:
        self._has_folders: dict[str, bool] = {}

    def options(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def list_versions(self, fs: Any, prefix: str) -> Iterator[Version]:
        """List current blobs, versions and snapshots."""
        container = prefix.partition("/")[0]
        for blob in self._list(fs, prefix):
            if not blob.deleted:
                yield Version(f"{container}/{blob.name}", blob.last_modified, _key_of(blob))

    def delete_versions(self, fs: Any, path: str, versions: Sequence[Version]) -> set[str]:
        """Delete the current blob with its snapshots, then old versions, and for good what was soft-deleted and may be."""
        from fsspec.asyn import sync

        keys = sorted((version.key for version in versions), key=len)  # The current blob has no key and comes first.
        refused: set[str] = sync(fs.loop, self._delete, fs, path, keys)
        kept = [_key_of(blob) for blob in self._list(fs, path) if blob.deleted and blob.name == path.partition("/")[2]]
        if numbered := [key for key in kept if key]:
            sync(fs.loop, self._delete, fs, path, numbered, blob_delete_type="Permanent")
        return refused

    def list_soft_deleted(self, fs: Any, prefix: str) -> Iterator[tuple[str, datetime]]:
        """List soft-deleted blobs, versions and snapshots. Azure says how many whole days are left."""
        container = prefix.partition("/")[0]
        for blob in self._list(fs, prefix):
            if blob.deleted:
                days = 1 + (blob.remaining_retention_days or 0)
                yield f"{container}/{blob.name}", datetime.now(UTC) + timedelta(days=days)

    def delete_unfinished(self, fs: Any, prefix: str, *, limit: datetime) -> int:
        """Nothing: Azure deletes blocks that were never committed after a week, and nobody can read them."""
        return 0

    async def _delete(self, fs: Any, path: str, keys: Sequence[Mapping[str, str]], **chosen: str) -> set[str]:
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        container, _, name = path.partition("/")
        refused: set[str] = set()
        for key in keys:
            of_current = {} if key else {"delete_snapshots": "include"}
            async with fs.service_client.get_blob_client(container, name, **key) as client:
                try:
                    await client.delete_blob(**of_current, **chosen)
                except ResourceNotFoundError:
                    pass  # It is gone: an earlier try, or another process, has deleted it.
                except HttpResponseError as error:
                    if error.status_code not in (400, 403, 409, 412):
                        raise
                    refused.add(code_of(error) or "refused")
        return refused

    def _list(self, fs: Any, prefix: str) -> list[Any]:
        from fsspec.asyn import sync

        return [blob for blob in sync(fs.loop, self._find, fs, prefix) if not _is_folder(blob)]

    async def _find(self, fs: Any, prefix: str) -> list[Any]:
        from azure.core.exceptions import HttpResponseError

        container, _, prefix = prefix.partition("/")
        has_folders = await self._find_out_folders(fs.service_client)
        async with fs.service_client.get_container_client(container) as client:

            async def find(*include: str, **params: str) -> list[Any]:
                pages = client.list_blobs(name_starts_with=prefix, include=["metadata", *include], params=params)
                return [blob async for blob in pages]

            if has_folders is False:
                return await find("versions", "snapshots", "deleted")
            try:
                found = await find("snapshots") if has_folders else await find("versions", "snapshots", "deleted")
            except HttpResponseError as error:
                if UNSUPPORTED not in (code_of(error) or ""):
                    raise
                has_folders, found = True, await find("snapshots")
            try:
                return found + await find(showonly="deleted")
            except HttpResponseError:
                if has_folders:
                    raise
                return found  # An account without folders does not know this call.

    async def _find_out_folders(self, service: Any) -> bool | None:
        """Find out whether an account has folders; None if these credentials may not ask."""
        from azure.core.exceptions import HttpResponseError

        if service.url not in self._has_folders:
            try:
                found = await service.get_account_information()
            except HttpResponseError:
                return None
            self._has_folders[service.url] = bool(found.get("is_hns_enabled"))
        return self._has_folders[service.url]


def _key_of(blob: Any) -> Mapping[str, str]:
    """What names a version or a snapshot of a blob in Azure's client; nothing for the current blob."""
    if blob.snapshot:
        return {"snapshot": blob.snapshot}
    if blob.version_id and not blob.is_current_version:
        return {"version_id": blob.version_id}
    return {}


def _is_folder(blob: Any) -> bool:
    """Whether Azure lists a folder, which an account with folders does."""
    return any(name.lower() == "hdi_isfolder" and value == "true" for name, value in (blob.metadata or {}).items())


APIS: dict[str, ObjectAPI] = {
    "s3": S3(),
    **dict.fromkeys(("gs", "gcs"), Google()),
    **dict.fromkeys(("az", "abfs", "abfss"), Azure()),
}
"""The API of each protocol."""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of gcsfs or of Azure's SDK. gcsfs raises its own exceptions for some."""
    if isinstance(error, FileExistsError):
        return 412
    if str(error).startswith("Forbidden: "):
        return 403
    if isinstance(error, ValueError) and str(error).startswith("Bad Request: "):
        return 400
    found = getattr(error, "status_code", None)
    if found is None and type(error).__module__.startswith("gcsfs"):
        found = getattr(error, "code", None)
    return int(str(found)) if str(found).isdecimal() else None


def code_of(error: BaseException | None) -> str | None:
    """Return a storage's code of an error, as S3's NoSuchKey or Azure's BlobNotFound; for Google the HTTP status."""
    for each in (error, error.__cause__ if error is not None else None):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
        if code := getattr(each, "error_code", None):
            return str(getattr(code, "value", code))
    status = status_of(error) if error is not None else None
    return f"HTTP {status}" if status else None


CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "RefreshError",
    "ClientAuthenticationError",
    "CredentialUnavailableError",
)
"""The errors of the clients if there are no credentials, or none that hold."""


def is_refusal(error: BaseException) -> bool:
    """Whether a storage refuses a call for want of permission. It may also be because of what it must keep."""
    found = isinstance(error, PermissionError) or type(error).__name__ in CREDENTIALS
    return found or status_of(error) in (401, 403)
