"""The server that requests are sent to: whether it is alive, and how it comes back.

Alive is what answers: its health path, and a request that is known to be good. An engine may be dead behind an API
server that says that all is well, so the second counts where there is one. A server that was started anew in the
meantime has died, however well it is now: `process_start_time_seconds` of its metrics tells, where it has any.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Final

from extproc.core.outcome import Outcome
from extproc.errors import ExtprocError
from extproc.replay.answer import Answer
from extproc.replay.request import Request
from extproc.replay.sender import Hearer, Sending

HEALTH: Final = "/health"
_POLL_SECONDS: Final = 0.2
_MOST_METRICS: Final = 4 << 20
_NO_SUCH: Final = frozenset({404, 405, 501})
_STARTED: Final = re.compile(rb"^process_start_time_seconds(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)


class Health(Enum):
    """How a server is."""

    ALIVE = "alive"
    DEAD = "dead"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class State:
    """How a server is, and what tells it."""

    health: Health
    text: str
    started: float | None = None
    """When its process began, by its own metrics."""

    known_good: bool = False
    """A request that is known to be good was answered well."""

    @property
    def alive(self) -> bool:
        """It works."""
        return self.health is Health.ALIVE

    @property
    def fate(self) -> str:
        """What has become of it, as the end of a sentence."""
        return {Health.ALIVE: "is alive", Health.DEAD: "died", Health.HUNG: "hangs"}[self.health]


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits, in seconds."""

    answer: float = 30.0
    """A server that gives nothing for so long, to a request that is known to be good, hangs."""
    settle: float = 1.0
    """How long a server is watched after an answer: what kills may take a moment."""
    settle_bad: float = 3.0
    """The same after a bad answer: an engine dies first, its API server some seconds later."""
    back: float = 900.0
    """How long it may take to come back."""


class Target:
    """One server, by its URL. `known_good`: a request that it must answer; `health`: the path, None for the usual one,
    which not every server has; `restart`: a command that brings it back."""

    def __init__(
        self,
        url: str,
        *,
        known_good: Request | None = None,
        health: str | None = None,
        restart: str | None = None,
        restart_log: Path | None = None,
        patience: Patience | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url
        self.patience = patience or Patience()
        self.restarts = 0
        """How often it has come back."""
        self._known_good = known_good
        self._health = health
        self._command = restart
        self._log = restart_log
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def known_good(self) -> Request | None:
        """What it must answer to count as alive."""
        return self._known_good

    @property
    def restartable(self) -> bool:
        """Whether we can bring it back ourselves."""
        return self._command is not None

    def state(self) -> State:
        """How it is now."""
        unwell = self._by_health()
        if unwell is not None:
            return unwell
        if self._known_good is None:
            return State(Health.ALIVE, f"{self._health or HEALTH} answers", self.started())
        answer = self.ask(self._known_good)
        if answer.kind == "ok":
            text = f"a known-good request was answered in {answer.seconds:.1f} s"
            return State(Health.ALIVE, text, self.started(), known_good=True)
        if not answer.is_failure:
            return State(Health.ALIVE, f"it answers, if with {answer.text}", self.started())
        hung = answer.outcome is Outcome.UPSTREAM_TIMEOUT
        return State(Health.HUNG if hung else Health.DEAD, f"to a known-good request: {answer.text}")

    def started(self) -> float | None:
        """When its process began, where its metrics say so."""
        heard = _Collected()
        sending = Sending(_get("/metrics"), self.url, heard)
        sending.start()
        if not sending.wait(self.patience.answer):
            sending.give_up("")
        found = _STARTED.search(b"".join(heard.pieces)) if sending.answer.kind == "ok" else None
        with contextlib.suppress(ValueError):
            return float(found[1]) if found else None
        return None

    def after(self, before: State, answers: Sequence[Answer]) -> State:
        """How it is after these answers. `before`: how it was. What went wrong may take a moment to show."""
        bad = any(each.is_failure for each in answers)
        settle = self.patience.settle_bad if bad else self.patience.settle
        deadline = time.monotonic() + settle
        now = self._since(before)
        while now.alive and time.monotonic() < deadline:
            time.sleep(min(_POLL_SECONDS, settle))
            now = self._by_health() or now  # a request that is known to be good costs more than that
        now = self._since(before) if now.alive and settle else now
        if now.alive and any(each.outcome is Outcome.UPSTREAM_TIMEOUT for each in answers):
            return State(Health.HUNG, "it answered nobody for a time, and went on", now.started)
        return now

    def _since(self, before: State) -> State:
        """How it is now; dead, if it was started anew since."""
        now = self.state()
        if now.alive and before.started is not None and now.started is not None and now.started > before.started:
            return State(Health.DEAD, "its process was started anew in the meantime", now.started)
        return now

    def bring_back(self) -> State:
        """Restart it, or wait until somebody has; how it is then. Raises ExtprocError where it does not come back."""
        if self._command is not None:
            self._restart(self._command)
        deadline = time.monotonic() + self.patience.back
        while not (now := self.state()).alive:
            if time.monotonic() >= deadline:
                raise ExtprocError(f"{self.url} did not come back in {self.patience.back:g} s: {now.text}")
            if self._process is not None and self._process.poll():
                raise ExtprocError(f"the restart command ended with {self._process.returncode}: {self._command}")
            time.sleep(_POLL_SECONDS)
        self.restarts += 1
        self._report(f"the target is back: {now.text}")
        return now

    def renew(self) -> State | None:
        """Restart it while it lives. None: the command does not do that. Raises ExtprocError as `bring_back` does."""
        assert self._command is not None
        before, gone = self.started(), False
        self._restart(self._command)
        assert self._process is not None
        deadline = time.monotonic() + self.patience.back
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code:
                self._report(f"the restart command does not restart a server that lives (exit code {code})")
                return None
            now = self.state()
            gone = gone or not now.alive
            anew = now.started is not None and before is not None and now.started > before
            if now.alive and (gone or anew or (code == 0 and before is None)):
                return now
            time.sleep(_POLL_SECONDS)
        raise ExtprocError(f"{self.url} did not come back in {self.patience.back:g} s")

    def ask(self, request: Request) -> Answer:
        """Send one request and wait for its answer, for as long as the patience goes."""
        sending = Sending(request, self.url)
        sending.start()
        while not sending.wait(_POLL_SECONDS):
            if sending.silent > self.patience.answer:
                sending.give_up(f"no answer in {self.patience.answer:g} s")
        return sending.answer

    def _by_health(self) -> State | None:
        """What the health path says against it. A path that nobody asked for may be missing, or want a credential."""
        answer = self.ask(_get(self._health or HEALTH))
        if answer.kind == "ok" or (self._health is None and (not answer.is_failure or answer.status in _NO_SUCH)):
            return None
        hung = answer.outcome is Outcome.UPSTREAM_TIMEOUT
        return State(Health.HUNG if hung else Health.DEAD, f"{self._health or HEALTH}: {answer.text}")

    def _restart(self, command: str) -> None:
        self._end_ours()
        self._report(f"restarting the target: {command}")
        log: IO[bytes] | int = subprocess.DEVNULL if self._log is None else self._log.open("ab")
        try:
            # In a session of its own: an interrupt of ours does not end the server.
            self._process = _Server(  # noqa: S604 - the operator's own command line
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if not isinstance(log, int):
                log.close()

    def _end_ours(self) -> None:
        """End a server that an earlier restart command runs in the foreground, and that hangs."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break


class _Server(subprocess.Popen[bytes]):
    """A server that a restart command runs in the foreground. It outlives the search: Python is not to warn of it."""

    def __del__(self) -> None:
        pass


class _Collected(Hearer):
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._size = 0

    def data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _MOST_METRICS:
            self.pieces.append(data)


def _get(path: str) -> Request:
    return Request(
        id=path,
        started_at="",
        method="GET",
        target=(path.encode(),),
        scheme="http",
        authority="",
        headers=[("user-agent", (b"extproc-replay",))],
        body=b"",
        missing=[],
    )
