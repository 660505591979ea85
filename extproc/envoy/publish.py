"""An Envoy directory, checked and written where a running Envoy reads it, with the settings of the deployment in it.

    publisher = Publisher(config, target, settings_of(config, collector, target), say)
    await publisher.publish()       # once: raises Refused when the configuration is not right
    await publisher.finish()        # what is left to do: take clusters away that nothing leads to any more
    await publisher.watch()         # and after every change; what is not right is said, and what was live goes on

What is live is always a whole configuration that has passed the check. A new cluster is there, and warm, before a
route leads to it. One that was removed stays until no route does, and then as long as a request may be held by the
recorder on its way to it: Envoy has chosen its route already, and asks for the cluster only afterwards.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
import socket
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from extproc.config import Config
from extproc.envoy import changes, files, source
from extproc.envoy.files import BOOTSTRAP, CLUSTERS, ROUTES, Documents
from extproc.envoy.source import SyntaxProblem, get
from extproc.errors import ConfigError

if TYPE_CHECKING:
    from extproc.envoy.check import Report

_RETRY_SECONDS: Final = 0.5
_CHANGES_SHOWN: Final = 20
_HALF_SAVED_SECONDS: Final = 0.7
"""An editor that writes in pieces has the next one there by then."""
_QUIET_MS: Final = 150
_QUIET_AT_LAST_MS: Final = 1000
_LOOK_MS: Final = 1000
"""How often the directory is looked at when nothing tells of changes, as on some file systems that are shared."""
_WARM_SECONDS: Final = 3.0
"""How long a new cluster takes to be warm, where nobody can ask Envoy: its names and a round of health checks."""
_ON_THEIR_WAY_SECONDS: Final = 12.0
"""How long a request may be on its way to a cluster that no route leads to any more: a little more than the
`message_timeout` of ext_proc."""

Settings = Callable[[Documents], Coroutine[Any, Any, None]]
"""Puts the settings of the deployment into documents that were read. Raises ConfigError."""

Say = Callable[[str], None]


class Refused(ConfigError):
    """The configuration is not right. The text has a line for each error."""

    def __init__(self, report: Report) -> None:
        super().__init__("\n".join(map(str, report.errors)))
        self.report = report


class Live(Protocol):
    """The Envoy that reads what is published."""

    async def took(self, clusters: str | None, routes: str | None, *others: str) -> str | None:
        """Wait until it serves these versions of clusters.yaml, routes.yaml and other files, every cluster warm; what
        it says when it refuses one."""


def directory(config: Config) -> Path | None:
    """The directory to read; None, the shipped files, when the default one is not there."""
    if config.envoy_dir.is_dir():
        return config.envoy_dir
    if config.envoy_dir == Config().envoy_dir:
        return None
    raise ConfigError(f"{config.envoy_dir}: there is no such directory; `extproc init .` writes ./envoy for editing")


def settings_of(config: Config, collector: str | None, target: Path, sidecars: Sequence[str] = ()) -> Settings:
    """The settings of a deployment whose parts somebody else starts. `sidecars`: the addresses of all workers, where
    there is more than one sidecar."""

    async def apply(documents: Documents) -> None:
        if config.backends:
            files.set_backends(documents, config.backends)
        addresses = sidecars or [config.address(worker) for worker in range(config.workers)]
        apply_common(documents, config, addresses, collector, target)

    return apply


def apply_common(
    documents: Documents, config: Config, addresses: Sequence[str], collector: str | None, target: Path
) -> None:
    """What every deployment sets: ports, where the sidecar listens, the collector, where the files are."""
    files.set_ports(documents, port=config.port, admin_port=config.envoy_admin_port)
    files.set_sidecar(documents, addresses)
    if collector is not None:
        files.set_tracing(documents, collector)
    files.set_directory(documents, target.absolute())


async def put_in(settings: Settings, documents: Documents) -> None:
    """Put settings into documents. Raises Refused where one has no place as a name is misspelt, else ConfigError."""
    from extproc.envoy import check  # noqa: PLC0415 - as in `Publisher.read`

    try:
        await settings(documents)
    except ConfigError:
        report = check.misspelt(documents)
        if report.errors:
            raise Refused(report) from None
        raise


class Publisher:
    """One target directory and what is live in it. `say` gets the lines for the operator.

    Without `envoy`, one may be running on what stands in the target. With it, that one is started after the first
    `publish`.
    """

    def __init__(self, config: Config, target: Path, settings: Settings, say: Say, envoy: Live | None = None) -> None:
        self._config = config
        self._source = directory(config)
        self._target = target
        self._settings = settings
        self._say = say
        self._envoy = envoy
        self._live = {} if envoy is not None else _standing(target, {*files.NAMES, *self._contents()})
        """What stands in the target."""
        self._wanted = dict(self._live)
        """What was to be live; without the clusters that still stand there."""
        self._serving = bool(self._live)
        """Whether an Envoy may be running on it."""
        self._watched = {CLUSTERS, ROUTES}
        """What Envoy reads as it changes, and says the version of."""
        self._remove_at: float | None = None
        self._seen: dict[str, bytes] = {}
        self._refused: list[str] = []
        self._warned: list[str] = []

    async def read(self) -> Documents:
        """The documents as they would be published. Raises Refused, and ConfigError."""
        from extproc.envoy import check  # noqa: PLC0415 - not for those who only want to know the directory

        self._seen = self._contents()
        documents, problems = files.read_all(self._source)
        if problems:
            raise Refused(check.syntax(problems))
        shipped = files.is_shipped(self._source)
        if not shipped and (wrong := await asyncio.to_thread(check.types, documents)).errors:
            raise Refused(wrong)
        await put_in(self._settings, documents)
        report = await asyncio.to_thread(check.check_shipped if shipped else check.check, documents, self._config)
        if report.errors:
            raise Refused(report)
        warnings = [str(each) for each in report.warnings]
        for warning in warnings:
            if warning not in self._warned:
                self._say(warning)
        self._warned = warnings
        return documents

    async def publish(self) -> list[Path]:
        """Make the configuration live; the paths of its files. Raises Refused, and ConfigError."""
        documents = await self.read()
        lines = changes.between(self._wanted, documents) if self._wanted else []
        await self._make_live(documents)
        self._say_changes(lines)
        return [self._target / name for name in documents]

    async def finish(self) -> None:
        """Wait until the clusters that were removed can go, and take them away. Raises ConfigError."""
        if self._remove_at is not None:
            await asyncio.sleep(self._remove_at - time.monotonic())
            await self._remove_kept()

    async def watch(self) -> None:
        """Publish after every change of the directory, until cancelled."""
        import watchfiles  # noqa: PLC0415 - only who watches pays for it

        if self._source is None:
            await self.finish()
            await asyncio.Event().wait()  # the shipped files do not change
            return
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change
        async for _ in watchfiles.awatch(
            self._source,
            watch_filter=lambda _, path: files.is_read(Path(path)) or path.endswith("..data"),
            debounce=_QUIET_AT_LAST_MS,
            step=_QUIET_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
        ):
            # Compared each time: an edit may also have come before the watch began.
            if self._contents() != self._seen:
                await self._publish_or_say()
            await self._remove_when_due()

    def _contents(self) -> dict[str, bytes]:
        try:
            return files.contents(self._source)
        except ConfigError:
            return {}  # said by who reads the documents

    async def _publish_or_say(self) -> None:
        before, self._seen = self._seen, self._contents()
        if not _looks_half_saved(before, self._seen) and await self._published():
            return
        await asyncio.sleep(_HALF_SAVED_SECONDS)
        try:
            await self.publish()
        except ConfigError as error:
            self._say_refusal(error)
            return
        self._refused = []

    async def _published(self) -> bool:
        try:
            await self.publish()
        except ConfigError:
            return False
        self._refused = []
        return True

    def _say_refusal(self, error: ConfigError) -> None:
        lines = str(error).splitlines()
        if lines != self._refused:
            for line in lines:
                self._say(line)
            self._say("not published; what was live goes on")
        self._refused = lines

    def _say_changes(self, lines: Sequence[str]) -> None:
        for line in lines[:_CHANGES_SHOWN]:
            self._say(f"live: {line}")
        if len(lines) > _CHANGES_SHOWN:
            self._say(f"live: {len(lines) - _CHANGES_SHOWN} changes more")
        if any(line.startswith(f"{BOOTSTRAP}:") for line in lines):
            self._say(f"{BOOTSTRAP} is read when Envoy starts: what has changed in it waits for a restart")

    # Making it live ----------------------------------------------------------------------------------------

    async def _make_live(self, documents: Documents) -> None:
        """Each file only if it has changed, and no route without its cluster in between."""
        self._watched = {CLUSTERS, ROUTES, *_watched(documents)}
        clusters, routes = documents[CLUSTERS], documents[ROUTES]
        kept = _removed(self._live.get(CLUSTERS), clusters)
        if kept:
            clusters = {**clusters, "resources": [*(clusters.get("resources") or ()), *kept]}
        others = {name: each for name, each in documents.items() if name not in (CLUSTERS, ROUTES)}
        await self._write({**others, CLUSTERS: clusters}, wait=self._live.get(ROUTES) != routes)
        await self._write({ROUTES: routes}, wait=False)
        self._drop(self._live.keys() - documents.keys())
        self._wanted = copy.deepcopy(dict(documents))
        self._serving = True
        self._remove_at = time.monotonic() + _ON_THEIR_WAY_SECONDS if kept else None

    async def _remove_when_due(self) -> None:
        if self._remove_at is None or time.monotonic() < self._remove_at:
            return
        try:
            await self._remove_kept()
        except ConfigError as error:
            self._say_refusal(error)

    async def _remove_kept(self) -> None:
        self._remove_at = None
        await self._write({CLUSTERS: self._wanted[CLUSTERS]}, wait=False)

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
            files.write(documents, self._target)
        except OSError as error:
            raise ConfigError(f"{error.filename or self._target}: cannot be written: {error.strerror}") from error

    def _drop(self, names: Iterable[str]) -> None:
        for name in list(names):
            (self._target / name).unlink(missing_ok=True)
            del self._live[name]


def _standing(target: Path, names: Iterable[str]) -> dict[str, Any]:
    """The documents of an earlier publication by these names; none where they are not whole."""
    paths = [target / name for name in names if name in files.NAMES or (target / name).is_file()]
    try:
        read = {path.name: source.parse(path.read_bytes(), path.name).value for path in paths}
    except (OSError, SyntaxProblem):
        return {}
    return {name: {member: each[member] for member in each if member != "version_info"} for name, each in read.items()}


def _looks_half_saved(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> bool:
    """Whether an editor has perhaps not finished: a file is gone, or ends within a line."""
    return bool(before.keys() - now.keys()) or any(not data.endswith(b"\n") for data in now.values())


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


# The backends' names ---------------------------------------------------------------------------------------


def resolve(backends: Sequence[str], seconds: float) -> None:
    """Wait until every backend has an address. Raises ConfigError for the first whose name has none by then."""
    until = time.monotonic() + seconds
    for url in backends:
        host = urllib.parse.urlsplit(url).hostname or ""
        while not _resolves(host):
            if time.monotonic() >= until:
                raise ConfigError(
                    f"backend {url}: the name {host} cannot be resolved. In compose, LLM_BACKEND=host:port names your "
                    "server, and --profile demo starts two demo backends"
                )
            time.sleep(_RETRY_SECONDS)


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False
