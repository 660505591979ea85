"""The demo engine's life: its turns, its queue, and how it dies.

    run = EngineRun(plan)
    with run.request(asked) as one:     # waits for nothing
        await one.turn()                 # until it has its turn
        await one.wait(0.05)             # as long as a token takes

Each of these raises `DeadError` when the engine has died under the request; `run.broken` says what is answered then.
A freeze stops the whole process for a time; what ends the process does so by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from typing import Any, Final, NoReturn

from extproc.mock.rules import Asked, Event, Rule, Watch

NOT_READY: Final = 75
"""The exit code of a process that was dead already and ends to be started again."""

_TOGETHER_SECONDS: Final = 0.5
"""A dying engine reports it to those in flight one after the other, within so long."""
_CULPRIT_SECONDS: Final = 0.7
"""The request that did it hears of it last."""
_MEMORY_STEPS: Final = 8


class Mode(Enum):
    """How it dies."""

    FRAMES = "frames"
    EXIT = "exit"
    KILL = "kill"
    ERROR = "500"
    HANG = "hang"
    FREEZE = "freeze"
    MEMORY = "memory"
    KEEP_500 = "keep-500"
    KEEP_503 = "keep-503"
    ALONE = "alone"


MODES: Final = {
    Mode.FRAMES: (2.0, "an error to each in flight and to all that comes for S seconds, then exit 0"),
    Mode.EXIT: (0.0, "exit 1 at once, with no word to anybody"),
    Mode.KILL: (0.0, "SIGKILL"),
    Mode.ERROR: (0.2, "500 to the request that did it, and S seconds later exit 1"),
    Mode.HANG: (0.0, "nothing more to anybody, but /health is well"),
    Mode.FREEZE: (8.0, "the whole process stands still for S seconds, and goes on"),
    Mode.MEMORY: (2.0, "slower and slower, and nothing to the request that did it, for S seconds, then SIGKILL"),
    Mode.KEEP_500: (0.0, "an error to each in flight, and 500 to all that comes, for ever"),
    Mode.KEEP_503: (0.0, "those in flight are cut, and 503 to all that comes, for ever"),
    Mode.ALONE: (0.0, "500 to that one request, and the engine lives"),
}
"""How many seconds each takes if nothing else is said, and what it does."""

LATCH: Final = "latch"
LATCH_SECONDS: Final = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class How:
    """A way to die."""

    mode: Mode
    seconds: float
    latch: float | None = None
    """The request that does it is answered; the engine dies so many seconds after its end."""


def parse(text: str, otherwise: str = "frames") -> How:
    """Read `[latch[=S],]MODE[=S]`; `latch` alone dies as `otherwise` says. ValueError: it is none."""
    first, _, rest = text.partition(",")
    name, _, seconds = first.partition("=")
    if name == LATCH:
        after = _seconds(seconds, LATCH_SECONDS)
        return dataclasses.replace(parse(rest or otherwise), latch=after)
    if rest:
        raise ValueError(f"only {LATCH} can stand before another mode, not {name!r}")
    try:
        mode = Mode(name)
    except ValueError:
        raise ValueError(f"{name!r} is none of {', '.join([*(each.value for each in Mode), LATCH])}") from None
    return How(mode, _seconds(seconds, MODES[mode][0]))


def _seconds(text: str, otherwise: float) -> float:
    if not text:
        return otherwise
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise ValueError(f"{text} is no number of seconds from 0 to 3600")
    return seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Of what the engine dies, how, and how many requests it serves side by side (0: all)."""

    rules: tuple[Rule, ...] = ()
    how: How = How(Mode.FRAMES, MODES[Mode.FRAMES][0])
    slots: int = 0
    end_after: float | None = None
    """A process that is dead but there ends so many seconds later."""
    seed: int = 0


class DeadError(Exception):
    """The engine has died under a request."""


class Broken(Enum):
    """What those who ask a dead engine get."""

    ERROR = "error"
    """An error: as a frame in a stream that has begun, else as a status."""
    UNAVAILABLE = "unavailable"
    """503, and streams that have begun are cut."""
    NOTHING = "nothing"
    """No answer, ever."""


class EngineRequest:
    """One request in the engine."""

    def __init__(self, run: EngineRun, asked: Asked, order: int) -> None:
        self._run = run
        self.asked = asked
        self.order = order
        self.has_turn = False
        self.latched = False
        self.late = False
        """It came when the engine was dead already."""
        self.rule: Rule | None = None

    async def turn(self) -> None:
        """Wait for its turn."""
        await self._run.turn_of(self)

    async def tokens(self, number: int, seconds: float) -> None:
        """Wait for tokens that take so long."""
        await self._run.tokens(self, number, seconds)

    async def last_words(self) -> None:
        """Wait until it hears that the engine has died."""
        await self._run.last_words(self)


class EngineRun:
    """One engine from its start to its end. `report` gets the line that says of what it dies."""

    def __init__(self, plan: Plan, report: Callable[[str], None] | None = None) -> None:
        self._plan = plan
        self._report = report if report is not None else _to_stderr
        self._watch = Watch(plan.rules)
        self._mortal = bool(plan.rules)
        self._slots = asyncio.Semaphore(plan.slots) if plan.slots else None
        self._dead = asyncio.Event()
        self._random = random.Random(plan.seed)  # noqa: S311 - it spreads errors over time
        self._came = 0
        self._begun = 0
        self._slower = 1.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_flight: dict[int, EngineRequest] = {}
        self.broken: Broken | None = None
        self.culprit: EngineRequest | None = None

    def hears_in_stream(self, one: EngineRequest) -> bool:
        """Whether a stream that has been given nothing yet is told of the death in a frame, or by a status."""
        return self._plan.how.mode in (Mode.FRAMES, Mode.KEEP_500) and not one.late

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(not each.has_turn for each in self.in_flight.values())

    @contextlib.contextmanager
    def request(self, asked: Asked) -> Iterator[EngineRequest]:
        """One request, from its arrival to its end."""
        self._came += 1
        one = EngineRequest(self, asked, self._came)
        self.in_flight[id(one)] = one
        try:
            yield one
        except (asyncio.CancelledError, ConnectionResetError):
            with contextlib.suppress(DeadError):
                self._sees(Event.CANCELLED, one)
            raise
        finally:
            asked.over = True
            del self.in_flight[id(one)]
            if one.has_turn and self._slots is not None:
                self._slots.release()
            if one.latched:
                assert self._plan.how.latch is not None
                self._soon(self._plan.how.latch, lambda: self._die(one))

    async def turn_of(self, one: EngineRequest) -> None:
        """Wait until it has its turn, and die of it if a rule says so."""
        one.late = self.broken is not None
        self._alive()
        since = time.monotonic()
        if self._slots is not None:
            await self._or_death(self._slots.acquire())
        one.has_turn = True
        self._begun += 1
        asked = one.asked
        running = [each.asked for each in self.in_flight.values() if each.has_turn]
        without = [each for each in self.in_flight.values() if not each.asked.output_tokens]
        asked.waited = time.monotonic() - since
        asked.oldest = min(without, key=lambda each: each.order) is one
        asked.number = self._begun
        asked.running = len(running)
        asked.tokens = sum(each.prompt_tokens + each.output_tokens for each in running)
        self._sees(Event.BEGUN, one)
        self._alive()

    async def tokens(self, one: EngineRequest, number: int, seconds: float) -> None:
        """Wait for tokens."""
        if not self._mortal:
            if seconds > 0:
                await asyncio.sleep(seconds)
            return
        if one is self.culprit and self._plan.how.mode is Mode.MEMORY:
            await asyncio.Event().wait()  # what it asks for does not fit: it never gets its next token
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), seconds * self._slower)
        self._alive()
        one.asked.output_tokens += number
        if self._watch.of_output:
            self._sees(Event.OUTPUT, one)
            self._alive()

    async def last_words(self, one: EngineRequest) -> None:
        """Wait until it is this request's turn to hear of the engine's death; for ever where it never does."""
        mode = self._plan.how.mode
        if one.late and self.broken is not Broken.NOTHING:
            return
        if self.broken is Broken.NOTHING or (mode is Mode.ERROR and one is not self.culprit):
            await asyncio.Event().wait()
        if mode not in (Mode.ERROR, Mode.ALONE):
            late = _CULPRIT_SECONDS if one is self.culprit else self._random.uniform(0, _TOGETHER_SECONDS)
            await asyncio.sleep(late)

    def _alive(self) -> None:
        if self.broken is not None:
            raise DeadError

    async def _or_death(self, turn: Coroutine[Any, Any, Any]) -> None:
        """Wait for a turn, or for the engine's death, whichever is first."""
        both = [asyncio.ensure_future(turn), asyncio.ensure_future(self._dead.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
        self._alive()

    def _sees(self, event: Event, one: EngineRequest) -> None:
        if self.broken is not None or not self._mortal:
            return
        rule = self._watch.sees(event, one.asked)
        if rule is None:
            return
        one.rule = rule
        if self._plan.how.latch is not None:
            one.latched = True
        else:
            self._die(one)

    def _die(self, one: EngineRequest) -> None:
        if self.broken is not None:
            return
        how = self._plan.how
        self._report(f"dies ({how.mode.value}) of request {one.asked.id}: {one.rule.text if one.rule else ''}")
        if how.mode is Mode.FREEZE:
            time.sleep(how.seconds)  # the whole process, as a busy loop in C would
            return
        if how.mode is Mode.ALONE:
            self.culprit = one
            raise DeadError
        if how.mode is Mode.EXIT:
            os._exit(1)
        if how.mode is Mode.KILL:
            _kill()
        if how.mode is Mode.MEMORY:
            if self.culprit is not None:
                return
            self.culprit = one
            for step in range(_MEMORY_STEPS):
                self._soon(how.seconds * step / _MEMORY_STEPS, self._slow_down)
            self._soon(how.seconds, _kill)
            return
        self.culprit = one
        self.broken = _BROKEN.get(how.mode, Broken.ERROR)
        self._dead.set()
        if how.mode in (Mode.FRAMES, Mode.ERROR):
            self._soon(how.seconds, lambda: os._exit(1 if how.mode is Mode.ERROR else 0))
        elif self._plan.end_after is not None:
            self._soon(self._plan.end_after, lambda: os._exit(NOT_READY))

    def _slow_down(self) -> None:
        self._slower *= 2

    def _soon(self, seconds: float, action: Callable[[], None]) -> None:
        async def later() -> None:
            await asyncio.sleep(seconds)
            action()

        task = asyncio.get_running_loop().create_task(later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_BROKEN: Final = {Mode.HANG: Broken.NOTHING, Mode.KEEP_503: Broken.UNAVAILABLE}


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives this")


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"mock-llm: {line}\n")
    sys.stderr.flush()
