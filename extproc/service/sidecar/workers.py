"""The supervisor: N worker processes, started, watched, restarted and stopped. Used by `serve` and `up`.

    workers = Workers(config)
    await workers.start()      # all of them listen; `workers.addresses` says where
    await workers.wait()       # does not return; StackError when they die too often
    await workers.stop()       # drain_seconds for what runs; call it again to wait no longer

Processes are spawned, never forked: gRPC does not survive a fork. The lock on the data directory is held
here, from before the first worker recovers its segments until after the last one has gone. A worker that dies
is started again with one line on stderr; more than `MAX_DEATHS` within a minute mean that starting again does
not help. The disk is another matter: a worker that it does not let write starts all the same, `on_audit_failure` says
what becomes of the traffic, and one that cannot even start is tried again, with pauses, until it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from extproc import errors, shell
from extproc.config import Config
from extproc.errors import ExtprocError, JournalError, StackError
from extproc.journal import directory, lines, recovery, retention, segment, shipped
from extproc.journal.directory import SEGMENTS
from extproc.journal.lock import lock_directory
from extproc.processes import gc
from extproc.processes.child import KILL_SECONDS, Child, how_it_ended
from extproc.service import redaction_key
from extproc.service.sidecar.figures import Figures

PROGRAM: Final = (sys.executable, "-m", "extproc.service.sidecar.worker")
MAX_DEATHS = 5
PERIOD_SECONDS = 60.0
HOUSEKEEPING_SECONDS = 60.0
LOOK_SECONDS = 1.0
PAUSE_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Between attempts to start a worker; the last one from then on."""
LAST_SECONDS = 10.0
"""After `drain_seconds` a worker has this long to write its last records, then it is killed."""
SILENT_SECONDS = 1.5
"""A worker that has said nothing for so long is not well, whatever it has said before: it tells five times a second."""
START_SECONDS = 60.0
"""A worker that is not ready by then is killed: it recovers its segments first, which takes a second or two."""
log = logging.getLogger("extproc.service")


def log_warning(line: str) -> None:
    """What an operator should know, in the operators' log."""
    log.warning(line)  # each line an event of its own: of many at once, none is left out


def log_info(line: str) -> None:
    """The same, where nothing is wrong."""
    log.info(line)


class Workers:
    """All workers of one sidecar. `say` gets the lines for the operator, `program` is what each worker runs."""

    def __init__(
        self,
        config: Config,
        warn: Callable[[str], None] = log_warning,
        *,
        program: tuple[str, ...] = PROGRAM,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._config = config
        self._warn = warn
        self._workers = [_Worker(config, index, program, start_seconds) for index in range(config.workers)]
        self._deaths: deque[float] = deque()
        self._lock = contextlib.ExitStack()
        self._locked = False
        self._ending = asyncio.Lock()
        self._watches: list[asyncio.Task[None]] = []
        self._fallen: asyncio.Future[None] | None = None
        self._stopping = False
        self._stopped = threading.Event()
        self._misplaced: list[str] = []

    @property
    def addresses(self) -> list[str]:
        """Where each worker listens, by index."""
        return [worker.address for worker in self._workers]

    @property
    def pids(self) -> list[int | None]:
        """The process of each worker, None while it is down."""
        return [worker.pid for worker in self._workers]

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether every worker is well, and the parts of each by name."""
        parts = [{"worker": worker.index, "up": worker.up, **worker.health} for worker in self._workers]
        well = all(all(part[name] for name in part if name != "worker") for part in parts)
        misplaced = {"misplaced_segments": self._misplaced} if self._misplaced else {}
        return well and not misplaced, {"workers": parts} | misplaced

    def figures(self) -> Figures:
        """What all workers have counted, the dead ones too."""
        return sum((worker.figures + worker.counted_before for worker in self._workers), Figures())

    def failed_starts(self) -> list[int]:
        """Of each worker by index how often it could not be started."""
        return [worker.failed_starts for worker in self._workers]

    def worker_status(self) -> list[tuple[bool, int]]:
        """Of each worker by index whether it runs and is well, and how often it was started again."""
        return [(worker.up and all(worker.health.values()), worker.restarts) for worker in self._workers]

    def is_writable(self) -> bool:
        """Whether every worker can write its journal, as it has said just now."""
        return all(worker.health.get("journal", worker.up) for worker in self._workers)

    def lock(self) -> None:
        """Make the data directory, and hold it until `stop`. Raises StackError, and JournalError when another does."""
        if self._locked:
            return
        data_dir = self._config.data_dir
        try:
            directory.make(data_dir)
        except OSError as error:
            raise StackError(f"data_dir {data_dir}: {error.strerror}") from error
        self._lock.enter_context(lock_directory(data_dir))
        self._locked = True

    async def start(self) -> None:
        """Start all and wait until they listen. Raises what the first failing worker said."""
        self.lock()
        data_dir = self._config.data_dir
        try:
            redaction_key.load(data_dir)  # made once, before several workers want to
            await self._recover()
        except ExtprocError:
            self._unlock()
            raise
        self._fallen = asyncio.get_running_loop().create_future()
        starts = (worker.start() for worker in self._workers)
        failures = [each for each in await asyncio.gather(*starts, return_exceptions=True) if each is not None]
        if failures:
            await self.stop()
            raise failures[0]
        self._watches = [asyncio.create_task(self._watch(worker)) for worker in self._workers]
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()
        threading.Thread(target=self._look_for_misplaced, name="segment-names", daemon=True).start()

    async def wait(self) -> None:
        """Until the workers have fallen over, which is raised as StackError."""
        assert self._fallen is not None
        await asyncio.shield(self._fallen)

    async def stop(self) -> None:
        """Stop all. A second call, while the first one waits, ends the waiting."""
        self._stopping = True
        self._stopped.set()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)  # so that none starts a worker behind our back
        for worker in self._workers:
            worker.terminate()
        deadline = self._config.drain_seconds + LAST_SECONDS
        await asyncio.gather(*(worker.gone(deadline) for worker in self._workers))
        async with self._ending:  # of two calls, neither gives the directory away while the other recovers
            if self._locked and self._fallen is not None:
                await self._recover_what_is_left()
            self._unlock()
        if self._fallen is not None and self._fallen.done():
            self._fallen.exception()  # looked at, so that asyncio does not complain

    def _unlock(self) -> None:
        self._locked = False
        self._lock.close()

    async def _recover(self) -> None:
        """Of all workers there ever were: of fewer than last time, none would look after the others' series."""
        try:
            await asyncio.to_thread(recovery.recover, self._config.data_dir)
        except JournalError as error:
            if not directory.lacks_room(error):
                raise
            self._warn(f"left to the workers, and to the next start: {error}")

    async def _recover_what_is_left(self) -> None:
        """A worker that died just before the end, or did not finish, left exchanges open; nobody else closes them."""
        try:
            await asyncio.to_thread(recovery.recover, self._config.data_dir)
        except JournalError as error:
            self._warn(f"left to the next start: {error}")

    async def _watch(self, worker: _Worker) -> None:
        """Start the worker again whenever it ends, until it ends too often or is meant to."""
        while True:
            why = await worker.ended()
            if self._stopping or self._fallen is None or self._fallen.done():
                return
            if self._too_often():
                text = f"workers died more than {MAX_DEATHS} times within a minute; the last: {why}"
                self._fallen.set_exception(StackError(text))
                return
            self._warn(f"{why}; starting it again")
            worker.restarts += 1
            await self._start_again(worker)

    async def _start_again(self, worker: _Worker) -> None:
        """Start it; where the system has no room for it, with pauses until it has. Else it has died once more."""
        for attempt in itertools.count():
            try:
                await worker.start(again=True)
            except (ExtprocError, OSError) as error:
                if self._stopping:
                    return
                pause = PAUSE_SECONDS[min(attempt, len(PAUSE_SECONDS) - 1)]
                worker.failed_starts += 1
                self._warn(f"worker {worker.index} could not start, and is tried again in {pause:g} s: {error}")
                await asyncio.sleep(pause)
                if not isinstance(error, JournalError | OSError):
                    return
            else:
                return

    def _keep_house(self) -> None:
        config = self._config
        while not self._stopped.wait(HOUSEKEEPING_SECONDS):
            try:
                retention.apply_retention(
                    config.data_dir,
                    days=config.retention_days,
                    segments=config.retention_segments,
                    bytes=config.retention_bytes,
                    may_go=self._may_go,
                )
                gc.give_back()
            except Exception as error:  # noqa: BLE001 - the disk may be in any state, and it will be tried again
                self._warn(f"housekeeping of {config.data_dir} failed, and will be tried again: {error}")

    def _may_go(self, name: segment.Name) -> bool:
        return not self._config.retention_after_ship or shipped.is_shipped(self._config.data_dir, name.stem)

    def _look_for_misplaced(self) -> None:
        """Segments that another program has renamed, for /readyz. The directory is read when it has changed."""
        path, seen = self._config.data_dir / SEGMENTS, 0
        while not self._stopped.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):  # which is for the workers to say
                changed = path.stat().st_mtime_ns
                if changed != seen:
                    self._misplaced, seen = segment.misplaced(path) + lines.missing(self._config.data_dir), changed
                    for name in self._misplaced:
                        self._warn(
                            f"{path / name} was renamed or removed by another program: see `{shell.command('verify')}`"
                        )

    def _too_often(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        while self._deaths[0] < now - PERIOD_SECONDS:
            self._deaths.popleft()
        return len(self._deaths) > MAX_DEATHS


class _Worker:
    """One worker process after another."""

    def __init__(self, config: Config, index: int, program: tuple[str, ...], start_seconds: float) -> None:
        self.index = index
        self.address = ""
        self.ready = False
        self.restarts = 0
        self.failed_starts = 0
        self.figures = Figures()
        self.counted_before = Figures()
        """What the processes before this one had counted."""
        self._config = config
        self._program = program
        self._start_seconds = start_seconds
        self._said: dict[str, bool] = {}
        self._heard_at = 0.0
        self._child: Child | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it listens and has been heard just now: one that is stopped or stuck says nothing."""
        return self.ready and time.monotonic() - self._heard_at < SILENT_SECONDS

    @property
    def health(self) -> dict[str, bool]:
        """Its named parts, none while it is down or silent."""
        return self._said if self.up else {}

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.runs else None

    async def start(self, *, again: bool = False) -> None:
        """Spawn the process and wait for its `ready`. Raises what it says instead, or that it says nothing.

        `again`: in the place of one that has ended, and so whatever the disk has against it.
        """
        self._said, self.ready = {}, False
        self.counted_before += self.figures.counters_only()
        self.figures = Figures()
        command = (*self._program, "--index", str(self.index), *(["--again"] if again else []))
        child = self._child = await Child.start(*command, first_line=self._config.to_json())
        started = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(child, started))
        try:
            async with asyncio.timeout(self._start_seconds):
                said = await started
                if not self.ready:
                    await child.ended()
        except TimeoutError:
            text = f"worker {self.index} (pid {child.pid}) was not ready within {self._start_seconds:g} s"
            await child.kill()
            raise StackError(f"{text}, and was killed") from None
        if isinstance(said, ExtprocError):
            raise said
        if not self.ready:
            raise StackError(f"{self._how_it_ended()} before it was ready")

    async def _read(self, child: Child, started: asyncio.Future[ExtprocError | None]) -> None:
        """Hear what the process says until its end. `started` is told once how the start went."""
        try:
            async for line in child.lines():
                word, _, rest = line.partition(" ")
                match word:
                    case "ready":
                        self.address, self.ready, self._heard_at = rest, True, time.monotonic()
                        _settle(started, None)
                    case "failed":
                        kind, _, text = rest.partition(" ")
                        _settle(started, getattr(errors, kind, StackError)(text))
                    case "health":
                        self._said, self._heard_at = json.loads(rest), time.monotonic()
                    case "figures":
                        self.figures = Figures.from_json(rest)
        finally:
            _settle(started, None)

    async def _heard_out(self) -> None:
        """Hear what the process said last, so that nothing of it is taken for the next one's."""
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=KILL_SECONDS)
            self._reader.cancel()

    async def ended(self) -> str:
        """Wait for the end of the process; which worker it was and why it ended."""
        if self._child is not None:
            await self._child.ended()
            await self._heard_out()
        self.ready = False
        return self._how_it_ended()

    def _how_it_ended(self) -> str:
        child = self._child
        if child is None or child.code is None:
            return f"worker {self.index} was not started"
        return f"worker {self.index} (pid {child.pid}) {how_it_ended(child.code)}"

    def terminate(self) -> None:
        """Have the process drain."""
        if self._child is not None:
            self._child.signal(signal.SIGTERM)

    async def gone(self, seconds: float) -> None:
        """Wait for the end of the process, and make it end when it takes longer."""
        if self._child is not None:
            await self._child.gone(seconds)
            await self._heard_out()


def _settle(started: asyncio.Future[ExtprocError | None], how: ExtprocError | None) -> None:
    if not started.done():
        started.set_result(how)
