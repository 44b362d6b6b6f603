"""Model servers: tell one to load the served version, and verify that its answers come from it.

Two protocols: the Open Inference Protocol (V2) with its model repository extension, which Triton and MLServer speak, and a plain
HTTP hook for servers of one's own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from connectors.configuration import HandOverFailed
from connectors.http import Server
from ledger.events.hand_overs import HandedVersion


class _ModelServer(Server):
    """A server that answers with a model's predictions."""

    @property
    def withdraws(self) -> bool:
        """A server's copies are not deleted by Expunge."""
        return False

    def withdraw(self, version: HandedVersion) -> None:
        """Raise HandOverFailed: it does not withdraw."""
        raise HandOverFailed("A model server's copy is deleted by its operator.")


class V2Server(_ModelServer):
    """A server with the V2 protocol. served_name: the model's name there; by default the same as here.

    A version has the same number there: its folder in the server's model repository is named by it.
    """

    served_name: str | None = None

    def hand_over(self, version: HandedVersion, weights: Callable[[], Path]) -> str | None:
        """Have the server load the model, and verify that it serves this version and none that knows erased people."""
        status, _ = self.call("POST", f"/v2/repository/models/{self._name(version)}/load", {})
        if status != 200:
            raise HandOverFailed(f"{self.url} answered {status} to the call to load {self._name(version)}.")
        self.check(version)
        return f"{self.url}/v2/models/{self._name(version)}/versions/{version.version}"

    def check(self, version: HandedVersion) -> None:
        """Verify that this version is ready, and that no version is which knows samples that were erased since."""
        if not self._is_ready(version, version.version):
            raise HandOverFailed(
                f"{self.url} does not serve version {version.version} of {self._name(version)}. Is it in the model repository?"
            )
        for number in sorted(version.knowing - {version.version}):
            if self._is_ready(version, number):
                raise HandOverFailed(
                    f"{self.url} still serves version {number} of {self._name(version)}, which knows people who were erased."
                )

    def _is_ready(self, version: HandedVersion, number: int) -> bool:
        status, _ = self.call("GET", f"/v2/models/{self._name(version)}/versions/{number}/ready")
        if status in (401, 403) or status >= 500:
            # Triton answers 400 and MLServer 404 for a version that is not there. These say nothing about it.
            raise HandOverFailed(f"{self.url} answered {status} when it was asked for version {number}.")
        return status == 200

    def _name(self, version: HandedVersion) -> str:
        return quote(self.served_name or version.model, safe="")


class HttpHook(_ModelServer):
    """A server of one's own. POST tells it what to serve; GET of the same URL with `?model=` tells what it serves, as
    `{"weights_sha256": "…"}`.
    """

    def hand_over(self, version: HandedVersion, weights: Callable[[], Path]) -> str | None:
        """Tell the server to serve the version, and verify that it does."""
        body = {
            "model": version.model,
            "version": version.version,
            "weights_sha256": version.weights_sha256,
            "verdict": version.verdict,
            "report_id": None if version.report_id is None else str(version.report_id),
        }
        status, _ = self.call("POST", "", body)
        if not 200 <= status < 300:
            raise HandOverFailed(f"{self.url} answered {status} to the call to serve version {version.version}.")
        self.check(version)
        return self.url

    def check(self, version: HandedVersion) -> None:
        """Verify by the digest of the weights that the server serves the version."""
        status, content = self.call("GET", f"?model={quote(version.model, safe='')}")
        if status != 200:
            raise HandOverFailed(f"{self.url} answered {status} when it was asked what it serves.")
        try:
            found = json.loads(content)["weights_sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HandOverFailed(f"{self.url} does not say what it serves, as {{“weights_sha256”: …}}.") from None
        if found != version.weights_sha256:
            raise HandOverFailed(
                f"{self.url} serves weights with SHA-256 {str(found)[:64]}; version {version.version} has {version.weights_sha256}."
            )
