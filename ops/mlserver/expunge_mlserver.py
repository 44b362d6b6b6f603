"""A model repository for MLServer: its models' weights are those of the version that Expunge serves.

Put this file on MLServer's PYTHONPATH, and name the class in its settings.json (docs/integrations/model-servers.md). It needs
nothing but MLServer itself. Whenever MLServer starts, or has to load a model, the served version is asked for, fetched if it is
another one, and checked by its SHA-256. What was fetched before is deleted.
"""

import asyncio
import hashlib
import json
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlserver.logging import logger
from mlserver.repository.repository import SchemalessModelRepository
from mlserver.settings import ModelSettings

CHUNK = 1024 * 1024
SECONDS = 60
"""How long Expunge may be silent before a call is given up."""


class ExpungeRepository(SchemalessModelRepository):
    """The folders of models with a model-settings.json each, as MLServer has them, with weights and version from Expunge.

    url: of Expunge's API. key_file: has an API key with the scope `weights:read`. cache: a folder for the weights.
    A model's name in Expunge is `parameters.extra.expunge_model` of its settings; by default it is the same as here.
    """

    def __init__(self, root: str, *, url: str, key_file: str, cache: str) -> None:
        super().__init__(root)
        self._url, self._key_file, self._cache = url.rstrip("/"), Path(key_file), Path(cache)
        self._turn = asyncio.Lock()

    async def list(self) -> list[ModelSettings]:
        """List the models that Expunge serves, with the served versions: at the start, and for each call to load one.

        A model that Expunge does not give now is left out, so MLServer answers that there is none: an older version, though it may
        still be here, may know people who were erased.
        """
        async with self._turn:
            followed = [await asyncio.to_thread(self._follow, settings) for settings in await super().list()]
        return [settings for settings in followed if settings is not None]

    def _follow(self, settings: ModelSettings) -> ModelSettings | None:
        """Give a model the served version; None if Expunge does not give it."""
        parameters = settings.parameters
        name = str((parameters.extra or {}).get("expunge_model", settings.name))
        try:
            served = json.loads(self._get(f"/models/{quote(name, safe='')}/served").read(CHUNK))
            parameters.uri = str(self._fetch(name, served["weights_sha256"]))
            parameters.version = str(served["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.error("Expunge does not give the served version of %s: %s", name, error)
            return None
        return settings

    def _fetch(self, name: str, sha256: str) -> Path:
        """Download the weights unless they are there, check them, and delete those of other versions."""
        folder = self._cache / hashlib.sha256(name.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{sha256}.safetensors"
        if not path.exists():
            digest = hashlib.sha256()
            descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".fetching-")
            weights = f"/models/{quote(name, safe='')}/served/weights"
            try:
                with os.fdopen(descriptor, "wb") as file, self._get(weights) as answer:
                    while chunk := answer.read(CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
                if digest.hexdigest() != sha256:
                    raise ValueError(f"the weights came with the SHA-256 {digest.hexdigest()} in place of {sha256}")
                os.replace(partial, path)
            finally:  # A download that fails is tried again for every call to load a model.
                Path(partial).unlink(missing_ok=True)
        for other in folder.iterdir():
            if other != path:
                other.unlink()
        return path

    def _get(self, path: str) -> Any:
        key = self._key_file.read_text(encoding="utf-8").strip()
        request = urllib.request.Request(self._url + path)
        # A signed URL of the storage, to which the weights may be redirected, must not get the key and refuses a second one.
        request.add_unredirected_header("Authorization", f"Bearer {key}")
        return urllib.request.urlopen(request, timeout=SECONDS)
