"""The whole stack on one machine: Envoy, the sidecar's workers, and demo backends when no others are named.

    stack = Stack(config)
    await stack.start()      # returns when a request would succeed
    await stack.wait()       # does not return; StackError when a part is beyond repair
    await stack.stop()       # ends everything, in order; `hurry` makes it wait no longer

Files are in `<data_dir>/run`: Envoy's configuration, which follows what is edited (`publish`), and its log. Nothing
that the stack does to see whether it works is an exchange: it asks Envoy's admin interface, and Envoy asks /health
past the recorder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

from extproc.config import UNIX_PATH_BYTES, Config, in_url, is_loopback, near_host
from extproc.envoy.config import files
from extproc.envoy.process.backends import Watch
from extproc.envoy.process.proxy import Envoy, State
from extproc.envoy.publish import publish
from extproc.envoy.publish.claim import claimed
from extproc.envoy.publish.publish import Publisher
from extproc.errors import StackError
from extproc.service.sidecar.ports import Port
from extproc.service.sidecar.sidecar import Sidecar
from extproc.service.sidecar.workers import log_info, log_warning
from extproc.telemetry import otlp
from extproc.up.demo import DemoBackend

_POLL_SECONDS: Final = 0.1
_FIRST_WAITING_SECONDS: Final = 1.0
_STILL_WAITING_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0
_HURRY_SECONDS: Final = 0.3


class Stack:
    """All processes of one `up`. `warn` gets the lines for the operator, `report` those where nothing is wrong."""

    def __init__(
        self, config: Config, warn: Callable[[str], None] = log_warning, report: Callable[[str], None] = log_info
    ) -> None:
        self._warn = warn
        self._report = report
        self.run_dir = config.data_dir.absolute() / "run"
        self._short_dir: Path | None = None
        self._config = self._with_short_socket(config)
        self._sidecar = Sidecar(self._config, warn)
        self.collector = otlp.endpoint(config, os.environ)
        self._envoy = Envoy(self.run_dir / "envoy", self.run_dir / "envoy.log", config.envoy_concurrency)
        self._publisher = Publisher(
            self._config, self.run_dir / "envoy", self._settings, report, envoy=self._envoy, warn=warn
        )
        self._backends: dict[int, DemoBackend] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._more_tasks = asyncio.Event()
        self.port = 0
        self._scheme = "http"
        self._host = "127.0.0.1"
        self._claim = contextlib.ExitStack()

    @property
    def admin_url(self) -> str:
        return self._sidecar.admin_url

    @property
    def url(self) -> str:
        return f"{self._scheme}://{in_url(near_host(self._host))}:{self.port}"

    @property
    def open_to(self) -> str | None:
        """The address under which other machines reach it; None where none does."""
        return None if is_loopback(self._host) else f"{in_url(self._host)}:{self.port}"

    @property
    def envoy_admin_url(self) -> str:
        return self._envoy.admin_url

    @property
    def has_demo_backends(self) -> bool:
        return bool(self._backends)

    async def start(self) -> None:
        """Start all parts and wait until a request would succeed. Stops what it has started when one part fails."""
        documents = await self._publisher.files()
        self._scheme = files.listener_scheme(documents)
        self._host = files.listener_host(documents)
        try:
            self._reserve(self._host)
            await self._start_sidecar()
            await self._publisher.publish()
            await self._start_envoy()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Until a part has fallen over for good, which is raised as StackError."""
        self._tasks += [
            asyncio.create_task(self._sidecar.wait()),
            asyncio.create_task(self._until_envoy_ends()),
            asyncio.create_task(self._publisher.watch()),
            asyncio.create_task(self._watch_backends()),
        ]
        while True:
            self._more_tasks.clear()
            more = asyncio.create_task(self._more_tasks.wait())
            done, _ = await asyncio.wait([*self._tasks, more], return_when=asyncio.FIRST_COMPLETED)
            more.cancel()
            for task in done - {more}:
                task.result()

    async def stop(self) -> None:
        """End all parts. The order: no new connections, the exchanges that run, Envoy, the backends.

        Envoy goes after the workers, so that what is cut off is recorded as drained and not as a lost connection.
        """
        for task in self._tasks:
            task.cancel()
        await self._envoy.refuse_connections()
        await self._sidecar.stop()
        await self._envoy.stop()
        await asyncio.gather(*(backend.stop() for backend in self._backends.values()))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._claim.close()
        if self._short_dir is not None:
            shutil.rmtree(self._short_dir, ignore_errors=True)

    async def hurry(self) -> None:
        """Wait no longer for the exchanges that run."""
        # Two signals in quick succession are one to the worker that gets them, so it is told until it has gone.
        stops: set[asyncio.Task[None]] = set()
        while not any(stop.done() for stop in stops):
            stops.add(asyncio.create_task(self._sidecar.hurry()))
            await asyncio.wait(stops, timeout=_HURRY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*stops)

    # Starting ----------------------------------------------------------------------------------------------

    def _with_short_socket(self, config: Config) -> Config:
        """The settings with absolute paths, and with a socket in /tmp when the data directory's path is too long."""
        config = config.replace(data_dir=config.data_dir.absolute())
        if config.listen is not None:
            return config
        longest = f"{self.run_dir / 'extproc.sock'}.{config.workers}"
        if len(os.fsencode(longest)) <= UNIX_PATH_BYTES:
            return config
        self._short_dir = Path(tempfile.mkdtemp(prefix="extproc-"))  # made 0700
        return config.replace(listen=f"unix:{self._short_dir / 'extproc.sock'}")

    def _reserve(self, host: str) -> None:
        # Envoy sets SO_REUSEPORT: two of them on one port would share its connections without a word.
        config = self._config
        self._sidecar.reserve(
            [Port(host, config.port, "--port"), Port("127.0.0.1", config.envoy_admin_port, "--envoy-admin-port")]
        )

    async def _start_sidecar(self) -> None:
        self._report(f"starting the sidecar, {_counted(self._config.workers, 'worker')}")
        await self._sidecar.start()
        self.run_dir.mkdir(0o750, exist_ok=True)  # it is there already when the socket is in it
        self._claim.enter_context(claimed(self.run_dir / "envoy", "up"))

    async def _settings(self, documents: files.Documents) -> None:
        """Put into the documents what this stack knows; demo backends that they need are started."""
        if self._config.backends:
            files.set_backends(documents, self._config.backends)
        else:
            await self._start_backends(files.demo_ports(documents))
            files.set_demo_ports(documents, {port: backend.port for port, backend in self._backends.items()})
        addresses = self._sidecar.workers.addresses
        publish.apply_common(documents, self._config, addresses, self.collector, self.run_dir / "envoy")
        files.guard_admin(documents, self._envoy.word)

    async def _start_backends(self, ports: Iterable[int]) -> None:
        new = {port: DemoBackend() for port in ports if port not in self._backends and not _is_taken(port)}
        if new:
            self._report(f"starting {_counted(len(new), 'demo backend')}")
        self._backends |= new  # `stop` ends those that have come up when one fails
        await _all(backend.start() for backend in new.values())
        self._tasks += [asyncio.create_task(backend.keep(self._warn)) for backend in new.values()]
        self._more_tasks.set()

    async def _start_envoy(self) -> None:
        self._report("starting Envoy")
        await self._envoy.start()
        ended = asyncio.create_task(self._until_envoy_ends())
        ready = asyncio.create_task(self._until_ready())
        fallen = asyncio.create_task(self._sidecar.wait())
        tasks = (ended, ready, fallen)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_ready(self) -> None:
        loop = asyncio.get_running_loop()
        patience = loop.time() + _FIRST_WAITING_SECONDS
        while True:
            state = await self._envoy.state()
            if state is not None and state.rejected:
                self._say_complaints()
                raise StackError("Envoy refuses the configuration: the lines above, from its log, say why")
            missing = _missing(state)
            if state is not None and not missing:
                self.port = state.port
                return
            if loop.time() > patience:
                self._warn(f"still waiting: {missing}")
                patience = loop.time() + _STILL_WAITING_SECONDS
            await asyncio.sleep(_POLL_SECONDS)

    async def _watch_backends(self) -> None:
        watch = Watch()
        while True:
            hosts = await self._envoy.hosts()
            if hosts is not None:
                for change in watch.look(hosts, self._publisher.names):
                    (self._warn if change.bad else self._report)(change.text)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _until_envoy_ends(self) -> None:
        text = await self._envoy.ended()
        self._say_complaints()
        raise StackError(text)

    def _say_complaints(self) -> None:
        for line in self._envoy.complaints():
            self._warn(f"envoy: {line}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _is_taken(port: int) -> bool:
    """Whether a server of the user's own listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _all(starts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of them to their end; then the first error is raised as itself."""
    for result in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _missing(state: State | None) -> str:
    """What a request would fail for; empty when it would succeed."""
    if state is None:
        return "Envoy does not answer yet"
    sidecar = state.hosts.get("extproc", {})
    down = [host for host, healthy in sidecar.items() if not healthy]
    if down or not sidecar:
        return f"Envoy does not reach the sidecar at {', '.join(down) or 'any address'}"
    if "llm" in state.hosts:
        backends = state.hosts["llm"]
        if not backends:
            return "the backends' names cannot be resolved"
        if not any(backends.values()):
            return f"no backend is healthy: {', '.join(backends)}"
    if not state.live or not state.port:
        return "Envoy is not ready yet"
    return ""
