"""The directory that a running Envoy reads: a configuration is made live in it so that no request notices.

    target = Target(path, names, envoy)
    await target.make_live(documents)   # raises ConfigError when Envoy refuses it, or the directory cannot be written
    await target.finish()               # what is left to do then, at once; `remove_when_due` does it in its time

Each file is written only if it has changed, and renamed into place. A new cluster is there, and warm, before a route
leads to it. One that was removed stays until no route does, and then as long as a request may be held by the recorder
on its way to it: Envoy has chosen its route already, and asks for the cluster only afterwards.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from extproc.envoy.config import files, source
from extproc.envoy.config.files import CLUSTERS, ROUTES, Documents
from extproc.envoy.config.source import SyntaxProblem, get
from extproc.errors import ConfigError

_WARM_SECONDS: Final = 5.0
"""How long a new cluster takes to be warm, where nobody can ask Envoy: its names and a round of health checks."""
_ON_THEIR_WAY_SECONDS: Final = 12.0
"""How long a request may be on its way to a cluster that no route leads to any more: a little more than the
`message_timeout` of ext_proc."""


class RunningEnvoy(Protocol):
    """The Envoy that reads what is published."""

    async def took(self, clusters: str | None, routes: str | None, *others: str) -> str | None:
        """Wait until it serves these versions of clusters.yaml, routes.yaml and other files, every cluster warm; what
        it says when it refuses one."""


class Target:
    """One directory and what is live in it. `names` are the files that an earlier publication may have left there.

    Without `envoy`, one may be running on what stands there. With it, that one is started after the first `make_live`.
    """

    def __init__(self, path: Path, names: Iterable[str], envoy: RunningEnvoy | None = None) -> None:
        self.path = path
        self._envoy = envoy
        self._live = {} if envoy is not None else _standing(path, {*files.NAMES, *names})
        self.wanted: dict[str, Any] = dict(self._live)
        """What is live, without the clusters that still stand there."""
        self._serving = bool(self._live)
        """Whether an Envoy may be running on it."""
        self._watched = {CLUSTERS, ROUTES}
        """What Envoy reads as it changes, and says the version of."""
        self._remove_at: float | None = None

    async def make_live(self, documents: Documents) -> None:
        """Write each file that has changed, no route without its cluster in between. Raises ConfigError."""
        self._watched = {CLUSTERS, ROUTES, *_watched(documents)}
        clusters, routes = documents[CLUSTERS], documents[ROUTES]
        kept = _removed(self._live.get(CLUSTERS), clusters)
        if kept:
            clusters = {**clusters, "resources": [*(clusters.get("resources") or ()), *kept]}
        others = {name: each for name, each in documents.items() if name not in (CLUSTERS, ROUTES)}
        await self._write({**others, CLUSTERS: clusters}, wait=self._live.get(ROUTES) != routes)
        await self._write({ROUTES: routes}, wait=False)
        self._drop(self._live.keys() - documents.keys())
        self.wanted = copy.deepcopy(dict(documents))
        self._serving = True
        self._remove_at = time.monotonic() + _ON_THEIR_WAY_SECONDS if kept else None

    async def remove_when_due(self) -> None:
        """Take clusters away that were removed, once their time has come. Raises ConfigError."""
        if self._remove_at is not None and time.monotonic() >= self._remove_at:
            await self._remove_kept()

    async def finish(self) -> None:
        """Wait until the clusters that were removed can go, and take them away. Raises ConfigError."""
        if self._remove_at is not None:
            await asyncio.sleep(self._remove_at - time.monotonic())
            await self._remove_kept()

    async def _remove_kept(self) -> None:
        self._remove_at = None
        await self._write({CLUSTERS: self.wanted[CLUSTERS]}, wait=False)

    async def _write(self, documents: Mapping[str, Any], *, wait: bool) -> None:
        changed = {name: each for name, each in documents.items() if self._live.get(name) != each}
        if not changed:
            return
        versions = {name: _version(each) for name, each in changed.items() if name in self._watched}
        self._to_disk({name: _versioned(each, versions.get(name)) for name, each in changed.items()})
        if self._serving:
            await self._until_taken(versions, changed, wait=wait)
        self._live |= copy.deepcopy(changed)

    async def _until_taken(self, versions: Mapping[str, str], written: Iterable[str], *, wait: bool) -> None:
        if self._envoy is None:
            if wait and CLUSTERS in versions:
                await asyncio.sleep(_WARM_SECONDS)
            return
        others = [version for name, version in versions.items() if name not in (CLUSTERS, ROUTES)]
        refusal = await self._envoy.took(versions.get(CLUSTERS), versions.get(ROUTES), *others)
        if refusal is not None:
            # An Envoy that is started on these files must find what this one serves.
            before = {name: self._live[name] for name in written if name in self._live}
            self._to_disk(
                {n: _versioned(each, _version(each) if n in versions else None) for n, each in before.items()}
            )
            raise ConfigError(refusal)

    def _to_disk(self, documents: Mapping[str, Any]) -> None:
        try:
            files.write(documents, self.path)
        except OSError as error:
            raise ConfigError(f"{error.filename or self.path}: cannot be written: {error.strerror}") from error

    def _drop(self, names: Iterable[str]) -> None:
        for name in list(names):
            (self.path / name).unlink(missing_ok=True)
            del self._live[name]


def _standing(target: Path, names: Iterable[str]) -> dict[str, Any]:
    """The documents of an earlier publication by these names; none where they are not whole."""
    paths = [target / name for name in names if name in files.NAMES or (target / name).is_file()]
    try:
        read = {path.name: source.parse(path.read_bytes(), path.name).value for path in paths}
    except (OSError, SyntaxProblem):
        return {}
    return {name: {member: each[member] for member in each if member != "version_info"} for name, each in read.items()}


def _removed(before: Any, after: Any) -> list[Any]:
    """The clusters of one file that the other has no more."""
    names = {get(each, "name") for each in _resources(after)}
    return [each for each in _resources(before) if get(each, "name") not in names]


def _resources(document: Any) -> list[Any]:
    resources = get(document, "resources")
    return resources if isinstance(resources, list) else []


def _watched(documents: Mapping[str, Any]) -> set[str]:
    """The documents that others name as files to be watched: endpoints, secrets."""
    sources = (each for document in documents.values() for _, each in source.find(document, "path_config_source"))
    return {Path(str(get(each, "path"))).name for each in sources} & documents.keys()


def _version(document: Any) -> str:
    return hashlib.sha256(files.text(document).encode()).hexdigest()[:16]


def _versioned(document: Any, version: str | None) -> Any:
    if version is None:
        return document
    return {"version_info": version} | {name: each for name, each in document.items() if name != "version_info"}
