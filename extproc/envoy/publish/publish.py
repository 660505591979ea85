"""An Envoy directory, checked and written where a running Envoy reads it, with the settings of the deployment in it.

    publisher = Publisher(config, target, settings_of(config, collector, target), report)
    await publisher.publish()       # once: raises Refused when the configuration is not right
    await publisher.finish()        # what is left to do: take clusters away that nothing leads to any more
    await publisher.watch()         # and after every change; what is not right is said, and what was live goes on

What is live is always a whole configuration that has passed the check, made live so that no request notices (`live`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from extproc import shell
from extproc.config import Config
from extproc.envoy.config import files, names, scope
from extproc.envoy.config.files import BOOTSTRAP, Documents
from extproc.envoy.config.names import Name
from extproc.envoy.publish import diff
from extproc.envoy.publish.live import RunningEnvoy, Target
from extproc.errors import ConfigError

if TYPE_CHECKING:
    from extproc.envoy.check.check import CheckResult

_RETRY_SECONDS: Final = 0.5
_CHANGES_SHOWN: Final = 20
_HALF_SAVED_SECONDS: Final = 0.7
"""An editor that writes in pieces has the next one there by then."""
_QUIET_MS: Final = 150
_QUIET_AT_LAST_MS: Final = 1000
_LOOK_MS: Final = 1000
"""How often the directory is looked at when nothing tells of changes, as on some file systems that are shared."""

Settings = Callable[[Documents], Coroutine[Any, Any, None]]
"""Puts the settings of the deployment into documents that were read. Raises ConfigError."""


class Refused(ConfigError):
    """The configuration is not right. The text has a line for each error."""

    def __init__(self, report: CheckResult) -> None:
        super().__init__("\n".join(map(str, report.errors)))
        self.report = report

    @property
    def lines(self) -> list[str]:
        return [str(each) for each in self.report.errors]


def directory(config: Config) -> Path | None:
    """The directory to read; None, the shipped files, when the default one is not there."""
    if config.envoy_dir.is_dir():
        return config.envoy_dir
    if config.envoy_dir == Config().envoy_dir:
        return None
    raise ConfigError(
        f"{config.envoy_dir}: there is no such directory; `{shell.command('init', '.')}` writes ./envoy for editing"
    )


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
    """What every deployment sets: ports, where the sidecar listens and for what, the collector, where the files are."""
    files.set_ports(documents, port=config.port, admin_port=config.envoy_admin_port)
    files.set_sidecar(documents, addresses)
    scope.set_scope(documents)
    if collector is not None:
        files.set_tracing(documents, collector)
    files.set_directory(documents, target.absolute())


async def put_in(settings: Settings, documents: Documents) -> None:
    """Put settings into documents. Raises Refused where one has no place as a name is misspelt, or as what is there was
    not made for the recorder, else ConfigError."""
    from extproc.envoy.check import check  # noqa: PLC0415 - as in `Publisher.files`

    try:
        await settings(documents)
    except ConfigError:
        report = check.without_place(documents)
        if report.errors:
            raise Refused(report) from None
        raise


class Publisher:
    """One configuration directory and the target where it is live. `report` gets the lines for the operator."""

    def __init__(
        self,
        config: Config,
        target: Path,
        settings: Settings,
        report: Callable[[str], None],
        *,
        envoy: RunningEnvoy | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """`envoy` is the one that is started on the target after the first `publish`, where this program does that.
        `warn` gets the lines on what is wrong, instead of `report`."""
        self._config = config
        self._source = directory(config)
        self._settings = settings
        self._report = report
        self._warn = warn or report
        self._target = Target(target, self._contents(), envoy)
        self.names: set[Name] = set()
        """The names in what is live that Envoy is to resolve."""
        self._seen: dict[str, bytes] = {}
        self._refused: list[str] = []
        self._warned: list[str] = []

    async def files(self) -> Documents:
        """The documents as they stand in the directory. Raises Refused, and ConfigError."""
        from extproc.envoy.check import check  # noqa: PLC0415 - not for those who only want to know the directory

        self._seen = {}
        self._seen = files.contents(self._source)
        documents, problems = files.parsed(self._source, self._seen)
        if problems:
            raise Refused(check.syntax(problems))
        if files.is_shipped(self._seen):
            return documents
        if (wrong := await asyncio.to_thread(check.types, documents)).errors:
            raise Refused(wrong)
        return await asyncio.to_thread(check.in_form, documents)

    async def read(self) -> Documents:
        """The documents as they would be published. Raises Refused, and ConfigError."""
        from extproc.envoy.check import check  # noqa: PLC0415 - as in `files`

        documents = await self.files()
        shipped = files.is_shipped(self._seen)
        await put_in(self._settings, documents)
        check_it = check.check_shipped if shipped else check.check
        report = await asyncio.to_thread(check_it, documents, self._config, list(files.strays(self._source)))
        if report.errors:
            raise Refused(report)
        warnings = [str(each) for each in report.warnings]
        for warning in warnings:
            if warning not in self._warned:
                self._warn(warning)
        self._warned = warnings
        return documents

    async def publish(self) -> list[Path]:
        """Make the configuration live; the paths of its files. Raises Refused, and ConfigError."""
        documents = await self.read()
        lines = diff.between(self._target.wanted, documents) if self._target.wanted else []
        await self._target.make_live(documents)
        self.names = names.to_resolve(documents)
        self._say_changes(lines)
        return [self._target.path / name for name in documents]

    async def finish(self) -> None:
        """Do what is left to do after `publish`, however long that takes. Raises ConfigError."""
        await self._target.finish()

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
            now = self._contents()
            if now != self._seen:
                await self._publish_or_warn(now)
            try:
                await self._target.remove_when_due()
            except ConfigError as error:
                self._say_refusal(error)

    def _contents(self) -> dict[str, bytes]:
        try:
            return files.contents(self._source)
        except ConfigError:
            return {}  # said by who reads the documents

    async def _publish_or_warn(self, now: Mapping[str, bytes]) -> None:
        if not _looks_half_saved(self._seen, now) and await self._attempt() is None:
            return
        await asyncio.sleep(_HALF_SAVED_SECONDS)
        error = await self._attempt()
        if error is not None:
            self._say_refusal(error)

    async def _attempt(self) -> ConfigError | None:
        """Publish; what was wrong, if it was refused."""
        try:
            await self.publish()
        except ConfigError as error:
            return error
        self._refused = []
        return None

    def _say_refusal(self, error: ConfigError) -> None:
        lines = error.lines
        if lines != self._refused:
            for line in lines:
                self._warn(line)
            self._warn("not published; what was live goes on")
        self._refused = lines

    def _say_changes(self, lines: Sequence[str]) -> None:
        for line in lines[:_CHANGES_SHOWN]:
            self._report(f"live: {line}")
        if len(lines) > _CHANGES_SHOWN:
            self._report(f"live: {len(lines) - _CHANGES_SHOWN} changes more")
        if any(line.startswith(f"{BOOTSTRAP}:") for line in lines):
            self._report(f"{BOOTSTRAP} is read when Envoy starts: what has changed in it waits for a restart")


def _looks_half_saved(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> bool:
    """Whether an editor has perhaps not finished: a file is gone, or ends within a line."""
    return bool(before.keys() - now.keys()) or any(not data.endswith(b"\n") for data in now.values())


# The backends' names ---------------------------------------------------------------------------------------


def resolve(backends: Sequence[str], seconds: float) -> None:
    """Wait until every backend has an address. Raises ConfigError for the first whose name has none by then."""
    until = time.monotonic() + seconds
    for url in backends:
        host = urllib.parse.urlsplit(url).hostname or ""
        while names.unresolved(host) is not None:
            if time.monotonic() >= until:
                raise ConfigError(
                    f"backend {url}: the name {host} cannot be resolved. In compose, LLM_BACKEND=host:port names your "
                    "server, and --profile demo starts two demo backends"
                )
            time.sleep(_RETRY_SECONDS)
