"""MLflow's model registry: a served version becomes a model version there, under the aliases that serving follows.

It speaks MLflow's REST API 2.0. A version is found again by a tag, so whatever a call did before it failed is not done twice.
The artifacts must go through the tracking server, as they do by default (`--serve-artifacts`).

MLflow's webhooks say that somebody has changed something there. Such a message is a hint and never a fact: whoever gets one asks
MLflow itself.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field, model_validator

from connectors.configuration import HandOverFailed
from connectors.http import Server, basic
from ledger.events.hand_overs import HandedVersion

WEIGHTS = "model.safetensors"
STATEMENT = "statement.dsse.json"
SIGNATURE = "model.sig"
FOLDER = "model"
"""Where a version's files are among the artifacts of its run."""

ID, SHA256, KNOWS = "expunge.id", "expunge.weights_sha256", "expunge.knows_erased"
"""Tags: which version of ours it is; its weights; that samples it knows were erased since."""

PAGE = 200
"""Model versions that are read at a time."""

MAX_PAGES = 1000
"""Pages of versions that are read: a server that always names a next one must not hold the beat for ever."""

MAX_WEBHOOK_BODY = 64 * 1024
"""Bytes of a webhook's message. A description or a tag may be long; all that is read of it is a name."""

MIN_SECRET_LENGTH = 16
"""Characters of a secret: with an empty one anybody could sign."""

_DELIVERY_ID = re.compile(r"[!-~]{1,100}")
_SECONDS = re.compile(r"[0-9]{1,11}")

Json = dict[str, Any]


class InvalidSecret(ValueError):
    """The file of a webhook's secret cannot be read, or holds none. The message says why."""


class MessageRefused(Exception):
    """A webhook's message is not signed with the secret of the connector. The message says what is missing or wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookMessage:
    """What a webhook's message says: its ID, when it was sent, and the registered model that it is about, if it names one."""

    delivery_id: str
    sent_at: datetime
    name: str | None


class MlflowRegistry(Server):
    """A tracking server with its registry.

    username: for HTTP Basic, with the content of `token_file` as the password. name: of the registered model; `{model}` is its name
    here. aliases: follow the served version. experiment: has a run for each version, with its files. webhook_secret_file: has the
    secret with which MLflow signs its webhooks; without it none is received.
    """

    username: Annotated[str, Field(min_length=1, pattern="^[^:]+$")] | None = None
    name: Annotated[str, Field(min_length=1, pattern="^[^/:]+$")] = "{model}"
    aliases: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = ("champion",)
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = "expunge"
    webhook_secret_file: Path | None = None

    @property
    def withdraws(self) -> bool:
        """Versions are deleted there with their artifacts."""
        return True

    def credentials(self) -> str | None:
        """Give the value of the header Authorization. Raises OSError if the token cannot be read."""
        if self.username is None or self.token_file is None:
            return super().credentials()
        return basic(self.username, self.token_file.read_text().strip())

    @model_validator(mode="after")
    def _has_password(self) -> "MlflowRegistry":
        if self.username is not None and self.token_file is None:
            raise ValueError("username needs token_file, the file with the password")
        return self

    def hand_over(self, version: HandedVersion, weights: Callable[[], Path]) -> str:
        """Have the registry hold the version, with its aliases, and verify it. A version that was made elsewhere is adopted."""
        name = self._name(version)
        found = self._find(self._versions(name), version)
        if found is None:
            found = self._create(name, version, weights)
        elif not self._holds_weights(found):
            self._upload(self._location(found), version, weights())
        for tag, value in tags(version).items():
            if _tags(found).get(tag) != value:
                self._post("model-versions/set-tag", name=name, version=found["version"], key=tag, value=value)
        for other in self._knowing(self._versions(name), version):
            if _tags(other).get(KNOWS) != "true":
                self._post("model-versions/set-tag", name=name, version=other["version"], key=KNOWS, value="true")
        placed = self._aliases(name)
        for alias in self.aliases:
            if placed.get(alias) != found["version"]:
                self._post("registered-models/alias", name=name, alias=alias, version=found["version"])
        self.check(version)
        return f"models:/{name}/{found['version']}"

    def check(self, version: HandedVersion) -> None:
        """Verify that the registry holds the version, that its aliases point to it, and none to one that knows erased people."""
        name = self._name(version)
        versions = self._versions(name)
        found = self._find(versions, version)
        if found is None or not self._holds_weights(found):
            raise HandOverFailed(f"MLflow lacks version {version.version} of {version.model}, or its weights.")
        knowing = {one["version"] for one in self._knowing(versions, version)}
        placed = self._aliases(name)
        for alias in self.aliases:
            if placed.get(alias) != found["version"]:
                where = f"version {placed[alias]}" if alias in placed else "no version"
                why = ", which knows people who were erased" if placed.get(alias) in knowing else ""
                raise HandOverFailed(f"In MLflow the alias {alias} of {name} points to {where}{why}.")
        for alias, number in sorted(placed.items()):
            if number in knowing:
                raise HandOverFailed(
                    f"In MLflow the alias {alias} of {name} points to version {number}, which knows people who were erased. It is "
                    "not one of this connector's aliases: delete it, or name it in the connector."
                )

    def withdraw(self, version: HandedVersion) -> None:
        """Delete a version's artifacts, its run and itself, in this order, and verify that they are gone."""
        name = self._name(version)
        found = self._find(self._versions(name), version)
        runs = self._runs(version)
        for path in [_path(run["info"]["artifact_uri"]) for run in runs] + (
            [] if found is None else [self._location(found)]
        ):
            if self._list(path):
                self._api("DELETE", f"mlflow-artifacts/artifacts/{quote(path)}")
            if self._list(path):
                raise HandOverFailed(f"MLflow still holds files at {path} after the call to delete them.")
        for run in runs:
            if run["info"]["lifecycle_stage"] == "active":
                self._post("runs/delete", run_id=run["info"]["run_id"])
        if found is not None:
            self._api("DELETE", "mlflow/model-versions/delete", {"name": name, "version": found["version"]})
        if self._find(self._versions(name), version) is not None:
            raise HandOverFailed(f"MLflow still has version {version.version} of {name} after the call to delete it.")

    def fetch_weights(self, name: str, number: str, into: Path) -> str:
        """Download the weights of a model version into a file, and return their SHA-256. Raises HandOverFailed."""
        path = self._location({"name": name, "version": number})
        files = [one for one in self._list(path) if one.endswith(".safetensors")]
        if len(files) != 1:
            raise HandOverFailed(
                f"models:/{name}/{number} has {len(files)} .safetensors files and must have one. Expunge loads no pickles: save "
                "the weights with safetensors, and log them among the model's files."
            )
        status, digest = self.receive_file(f"{_ROOT}mlflow-artifacts/artifacts/{quote(f'{path}/{files[0]}')}", into)
        if status != 200:
            raise HandOverFailed(f"MLflow answered {status} to the download of {files[0]}.")
        return digest

    def claim(self, name: str, number: str, digest: str) -> None:
        """Tag a model version with the digest of its weights, so that it is adopted when they are handed over."""
        self._post("model-versions/set-tag", name=name, version=number, key=SHA256, value=digest)

    def find_model(self, name: str) -> str | None:
        """Find which model here has a name there; None where all have the same. Raises LookupError if none has it."""
        before, gap, after = self.name.partition("{model}")
        model = name.removeprefix(before).removesuffix(after)
        if name != before + model + after or bool(model) != bool(gap):
            raise LookupError(name)
        return model or None

    def _name(self, version: HandedVersion) -> str:
        return self.name.replace("{model}", version.model)

    def _create(self, name: str, version: HandedVersion, weights: Callable[[], Path]) -> Json:
        """Make a run with the version's files, and a model version of it."""
        self._post("registered-models/create", allow=_EXISTS, name=name)
        runs = [run for run in self._runs(version) if run["info"]["lifecycle_stage"] == "active"]
        run = runs[0] if runs else self._create_run(version)
        info = run["info"]
        path = _path(info["artifact_uri"])
        self._upload(f"{path}/{FOLDER}", version, weights())
        self._post("runs/update", run_id=info["run_id"], status="FINISHED")
        given = [{"key": key, "value": value} for key, value in tags(version).items()]
        source = f"{info['artifact_uri']}/{FOLDER}"
        answer = self._post("model-versions/create", name=name, source=source, run_id=info["run_id"], tags=given)
        made: Json = answer["model_version"]
        return made

    def _create_run(self, version: HandedVersion) -> Json:
        label = f"{version.model} version {version.version}"
        given = [{"key": ID, "value": identify(version)}, {"key": SHA256, "value": version.weights_sha256}]
        run: Json = self._post("runs/create", experiment_id=self._experiment_id(), run_name=label, tags=given)["run"]
        return run

    def _experiment_id(self) -> str:
        found = self._find_experiment()
        if found is None:
            self._post("experiments/create", allow=_EXISTS, name=self.experiment)
            found = self._find_experiment()
        if found is None:
            raise HandOverFailed(f"MLflow does not give the experiment {self.experiment}.")
        return found

    def _find_experiment(self) -> str | None:
        answer = self._get("mlflow/experiments/get-by-name", allow=_ABSENT, experiment_name=self.experiment)
        return answer["experiment"]["experiment_id"] if "experiment" in answer else None

    def _runs(self, version: HandedVersion) -> list[Json]:
        """Find the runs that this connector has made for a version, deleted ones too."""
        experiment = self._find_experiment()
        if experiment is None:
            return []
        chosen = f"tags.`{ID}` = '{identify(version)}'"
        answer = self._post("runs/search", experiment_ids=[experiment], filter=chosen, run_view_type="ALL")
        return list(answer.get("runs", ()))

    def _upload(self, path: str, version: HandedVersion, weights: Path) -> None:
        """Send a version's files and read the weights back: an answer alone does not show that they are there."""
        target = f"{_ROOT}mlflow-artifacts/artifacts/{quote(path)}"
        files = {WEIGHTS: weights}
        with TemporaryDirectory() as folder:
            for name, content in {STATEMENT: version.statement, SIGNATURE: version.signature}.items():
                if content is not None:
                    files[name] = Path(folder, name)
                    files[name].write_text(json.dumps(content))
            for name, file in files.items():
                status = self.send_file(f"{target}/{name}", file)
                if status != 200:
                    raise HandOverFailed(f"MLflow answered {status} to the upload of {name}.")
        status, digest = self.receive_file(f"{target}/{WEIGHTS}")
        if (status, digest) != (200, version.weights_sha256):
            raise HandOverFailed(
                f"MLflow does not give back the weights that it was sent (status {status}, SHA-256 {digest})."
            )

    def _holds_weights(self, found: Json) -> bool:
        return any(name.endswith(".safetensors") for name in self._list(self._location(found)))

    def _location(self, found: Json) -> str:
        """Ask where the files of a model version are: its source may name a logged model. Gives a path of artifacts."""
        answer = self._get("mlflow/model-versions/get-download-uri", name=found["name"], version=found["version"])
        return _path(answer["artifact_uri"])

    def _list(self, path: str) -> list[str]:
        """List the names of what is in a folder of artifacts."""
        answer = self._get("mlflow-artifacts/artifacts", allow=_ABSENT, path=path)
        return [one["path"].rpartition("/")[2] for one in answer.get("files", ())]

    def _versions(self, name: str) -> list[Json]:
        """Read all versions of a registered model, a page at a time."""
        mark = '"' if "'" in name else "'"
        given: dict[str, str] = {"filter": f"name = {mark}{name}{mark}", "max_results": str(PAGE)}
        found: list[Json] = []
        for _ in range(MAX_PAGES):
            answer = self._get("mlflow/model-versions/search", allow=_ABSENT, **given)
            found += answer.get("model_versions", ())
            if not answer.get("next_page_token"):
                return found
            given["page_token"] = answer["next_page_token"]
        raise HandOverFailed(f"MLflow's list of the versions of {name} has no end after {MAX_PAGES} pages.")

    def _find(self, versions: list[Json], version: HandedVersion) -> Json | None:
        """Find a version by its tag, or one that `claim` has tagged with its weights and that is no other version of ours."""
        given = [(one, _tags(one)) for one in versions]
        own = [one for one, tagged in given if tagged.get(ID) == identify(version)]
        claimed = [one for one, tagged in given if ID not in tagged and tagged.get(SHA256) == version.weights_sha256]
        return next(iter([*own, *claimed]), None)

    def _knowing(self, versions: list[Json], version: HandedVersion) -> list[Json]:
        """Choose the versions that know erased people: ours by their tags, and whatever somebody has made of the same files."""
        numbers = {str(number) for number in version.knowing - {version.version}}
        found = [
            one
            for one in versions
            if _tags(one).get("expunge.version") in numbers
            and (_tags(one).get("expunge.tenant"), _tags(one).get("expunge.model")) == (version.tenant, version.model)
        ]
        while True:  # a copy may have been copied
            sources = {one["source"] for one in found} | {f"models:/{one['name']}/{one['version']}" for one in found}
            copies = [one for one in versions if one not in found and one["source"] in sources]
            if not copies:
                return found
            found += copies

    def _aliases(self, name: str) -> dict[str, str]:
        answer = self._get("mlflow/registered-models/get", allow=_ABSENT, name=name)
        return {one["alias"]: one["version"] for one in answer.get("registered_model", {}).get("aliases", ())}

    def _get(self, path: str, /, *, allow: tuple[str, ...] = (), **query: str) -> Json:
        return self._api("GET", f"{path}?{urlencode(query)}", allow=allow)

    def _post(self, path: str, /, *, allow: tuple[str, ...] = (), **body: Any) -> Json:
        return self._api("POST", f"mlflow/{path}", body, allow=allow)

    def _api(self, method: str, path: str, body: Json | None = None, *, allow: tuple[str, ...] = ()) -> Json:
        """Make a call, and give its answer; an empty one for an error code that is allowed. Raises HandOverFailed."""
        status, content = self.call(method, f"{_ROOT}{path}", body)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        code = str(answer.get("error_code"))[:100] if isinstance(answer, dict) else "no JSON"
        if code in allow:
            return {}
        hint = " Has the token expired?" if status in (401, 403) else ""
        raise HandOverFailed(f"MLflow answered {status} ({code}) to {method} {path.partition('?')[0]}.{hint}")


_ROOT = "/api/2.0/"
_EXISTS = ("RESOURCE_ALREADY_EXISTS",)
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def identify(version: HandedVersion) -> str:
    """Name a version in a tag: the SHA-256 of its tenant, model, number and weights. Names may hold what a filter cannot."""
    parts = (version.tenant, version.model, str(version.version), version.weights_sha256)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tags(version: HandedVersion) -> dict[str, str]:
    """Give the tags of a version: counts and digests, nothing of a person."""
    given = {
        ID: identify(version),
        SHA256: version.weights_sha256,
        "expunge.tenant": version.tenant,
        "expunge.model": version.model,
        "expunge.version": str(version.version),
        "expunge.samples_forgotten": str(version.samples),
        "expunge.predecessor": "" if version.predecessor is None else str(version.predecessor),
        "expunge.verdict": "" if version.verdict is None else version.verdict.value,
        "expunge.report": "" if version.report_id is None else str(version.report_id),
        "expunge.report_sha256": version.report_sha256 or "",
        "expunge.statement_sha256": "" if version.statement is None else statement_sha256(version.statement),
    }
    return {key: value for key, value in given.items() if value}


def statement_sha256(envelope: Mapping[str, Any]) -> str:
    """Compute the SHA-256 (hex) of what a DSSE envelope holds: the in-toto Statement."""
    return hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()


def _tags(found: Json) -> dict[str, str]:
    return {one["key"]: one.get("value", "") for one in found.get("tags", ())}


def _path(uri: str) -> str:
    """Give the path of artifacts below the server's root. Raises HandOverFailed if they do not go through the server."""
    parts = urlsplit(uri)
    if parts.scheme != "mlflow-artifacts":
        raise HandOverFailed(
            f"The artifacts are at {parts.scheme or 'file'}:, not behind MLflow's server: start it with --serve-artifacts."
        )
    return parts.path.strip("/")


def read_secret(path: Path) -> bytes:
    """Read the secret that MLflow signs with, UTF-8. Raises InvalidSecret; a message never quotes it."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidSecret(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSecret(f"{path} must hold a secret in UTF-8") from None
    if len(secret) < MIN_SECRET_LENGTH:
        raise InvalidSecret(f"{path} must hold a secret of {MIN_SECRET_LENGTH} characters or more")
    return secret.encode()


def read_webhook(headers: Mapping[str, str], body: bytes, *, secret: bytes) -> WebhookMessage:
    """Check the signature of a message, and only then read it. Raises MessageRefused.

    MLflow signs as Standard Webhooks do, with headers of its own: HMAC-SHA256 over the delivery's ID, the time of sending and the
    body (mlflow/webhooks/delivery.py).
    """
    delivery_id, sent = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    if not _DELIVERY_ID.fullmatch(delivery_id) or not _SECONDS.fullmatch(sent):
        raise MessageRefused("X-MLflow-Delivery-Id and X-MLflow-Timestamp must be there")
    signed = f"{delivery_id}.{sent}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256))
    if not hmac.compare_digest(expected, headers.get("x-mlflow-signature", "").encode()):
        raise MessageRefused("X-MLflow-Signature is not that of the connector's webhook_secret_file")
    return WebhookMessage(delivery_id=delivery_id, sent_at=datetime.fromtimestamp(int(sent), UTC), name=_named_in(body))


def _named_in(body: bytes) -> str | None:
    """Find the name of the registered model; None if the body has none that could be one, and so may be about any."""
    try:
        name = json.loads(body)["data"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and name.isprintable() else None
