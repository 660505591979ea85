"""What the two transports share: the names they serve, their limits, and the interface to what is above them.

A transport moves bytes. It makes one processor for each ext_proc stream, gives it each message, sends what
comes back, and says once that the stream is over. It parses nothing but health requests.

    server = Transport(endpoint, processors, timers, health)
    address = server.start()        # listening; the address as bound, so port 0 becomes a number
    server.run()                    # the loop; returns when a stop is complete
    server.stop(grace)              # from any thread or signal handler; a second call: wait for nothing more

The end has one order, in both transports, and `shutdown.py` is it: health says NOT_SERVING, no new streams are taken,
the exchanges in flight get `grace` seconds, the recorder ends those that are left, their streams are cancelled (so
that Envoy fails them closed), Envoy's access log has its last entries delivered, and `run` returns when the last
processor has heard that its stream is over.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from extproc.core.events import CloseReason

if TYPE_CHECKING:
    import grpc  # a worker without TLS does without it

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ACCESS_LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"

RESOLUTION = 0.05
"""Seconds by which a timer can be late, and within which a stop or a change of health is noticed."""

LAST_WORDS = 3.0
"""Seconds that cancelled streams get to hear of it. Only a gate that stays shut needs them: a stuck disk."""

log = logging.getLogger("extproc.service")


Reply = bytes | None
"""What a message is answered with now: a serialised ProcessingResponse, or one of these two."""

NO_REPLY: Final = b""
"""Send nothing and read on."""

LATER: Final = None
"""The reply waits for something. It is given to `send` once, by any thread, and nothing is taken until then."""


class Processor(Protocol):
    """One ext_proc stream, as `processor.py` implements it. Called by one thread at a time."""

    def receive(self, message: bytes) -> Reply:
        """The reply to a message."""
        ...

    def closed(self, reason: CloseReason) -> None:
        """The stream is over: called exactly once, when nothing else is under way on the stream."""
        ...


class NewProcessor(Protocol):
    """Makes the processor of a new stream from its gRPC metadata."""

    def __call__(self, metadata: Iterable[tuple[str, str | bytes]], send: Callable[[bytes], None], /) -> Processor: ...


class AccessLog(Protocol):
    """What takes the messages of Envoy's access log, as `accesslog.py` implements it."""

    streams: int
    """Open streams: the transport counts them here."""

    def receive(self, message: bytes) -> None: ...

    def outstanding(self) -> bool:
        """Whether an entry is still worth waiting for before the end."""
        ...


class Timers(Protocol):
    """What a transport's loop does for the recorder besides streams: `tick` every RESOLUTION seconds."""

    @property
    def in_flight(self) -> int: ...

    @property
    def access_log(self) -> AccessLog: ...

    def tick(self) -> None: ...

    def drain(self) -> None: ...


class Transport(Protocol):
    """A transport; the module's docstring says what each call promises."""

    def start(self) -> str: ...

    def run(self) -> None: ...

    def stop(self, grace: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens, and how much it takes. `address`: `unix:PATH` or `HOST:PORT`."""

    address: str
    credentials: grpc.ServerCredentials | None = None
    max_connections: int = 4096
    max_streams: int = 100_000
    last_words: float = LAST_WORDS

    def bound(self, port: int) -> str:
        """The address with the port that the system gave."""
        if self.address.startswith("unix:"):
            return self.address
        return f"{self.address.rpartition(':')[0]}:{port}"


class Complaints:
    """Logs failures of processors: type and place, never the text, which may quote a body. One a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = 0.0
        self._left_out = 0

    def failed(self, what: str, error: BaseException) -> None:
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last one)" if self._left_out else ""
        self._next, self._left_out = now + 1.0, 0
        place = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s: %s%s\n%s", what, type(error).__name__, more, place)
