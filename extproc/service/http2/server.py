"""The server: sockets, and the one loop that everything happens in.

A turn of the loop takes what has come on each connection, then what other threads have posted, and then sends what
each connection has to say, with one `send`. Other threads post replies to a deque, and write to an eventfd only when
the loop has not been woken yet; so a batch of the journal's wakes it once.

A connection that does not read what it is sent is not read from either. One that has not said what HTTP/2 begins with
after HANDSHAKE_SECONDS is closed. After QUIET_SECONDS without a word a client gets a PING, and is hung up on when that
has no answer for ANSWER_SECONDS: a process that was stopped for minutes finds all of them quiet, and none gone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import get_ident
from time import monotonic
from typing import Final

from extproc.config import host_and_port
from extproc.errors import StackError
from extproc.service.health import Health
from extproc.service.http2 import calls
from extproc.service.http2.connection import Connection
from extproc.service.http2.fields import Known, Request
from extproc.service.http2.frames import Code
from extproc.service.http2.stream import Stream
from extproc.service.shutdown import Shutdown
from extproc.service.transport import RESOLUTION, Complaints, Endpoint, NewProcessor, Timers

log = logging.getLogger("extproc.service")

HANDSHAKE_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 20.0
LINGER_SECONDS: Final = 1.0
"""How long a client may take to read our GOAWAY before its connection is closed."""

_RECEIVE_BYTES: Final = 256 * 1024
_SWEEP_SECONDS: Final = 1.0
_BACKLOG: Final = 1024
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Http2Server:
    """The transport's interface as `transport.py` describes it, and the `Host` of its connections."""

    table_bytes = 0

    def __init__(
        self,
        endpoint: Endpoint,
        processors: NewProcessor,
        timers: Timers,
        health: Health,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`clock`: what the silence of clients is measured by, in seconds."""
        self.clock = clock
        self.processors = processors
        self.access_log = timers.access_log
        self.health = health
        self.complaints = Complaints()
        self.max_streams = endpoint.max_streams
        self.known: Known = {}
        self.open = 0
        """Calls, and streams whose gate is shut after their end."""
        self.streams: set[calls.Process] = set()
        self.watches: set[calls.Watch] = set()
        self._endpoint = endpoint
        self._timers = timers
        self._shutdown = Shutdown(self, timers, health, last_words=endpoint.last_words)
        self._poll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._socket_file: _SocketFile | None = None
        self._accepting = False
        self._full = False
        """It was said that no connection can be accepted, and none was since."""
        self._peers: dict[int, _Peer] = {}
        self.dirty: list[_Peer] = []
        """Connections with something to send."""
        self._posted: deque[tuple[calls.Process, bytes]] = deque()
        self._wake = _Wake()
        self._woken = False
        self._thread = 0
        self._sweep_at = 0.0

    # -- the transport's interface --

    def start(self) -> str:
        endpoint = self._endpoint
        try:
            listeners = list(_listen(endpoint.address))
        except OSError:
            raise StackError(f"cannot listen on {endpoint.address}: the address is in use or not ours") from None
        self._listeners = {each.fileno(): each for each in listeners}
        self._socket_file = _SocketFile.of(endpoint.address)
        self._poll.register(self._wake.fd, _IN)
        self._accept_again()
        if listeners[0].family == socket.AF_UNIX:
            return endpoint.address
        return endpoint.bound(listeners[0].getsockname()[1])

    def run(self) -> None:
        self._thread = get_ident()
        try:
            for _ in self._shutdown.steps():
                self._turns(monotonic() + RESOLUTION)
                self._tick()
        finally:
            self._close()

    def stop(self, grace: float) -> None:
        self._shutdown.stop(grace)

    # -- for the end, in `Shutdown`'s order --

    @property
    def cancelling(self) -> bool:
        return self._shutdown.cancelling

    def refuse(self) -> None:
        self._stop_listening()
        for peer in tuple(self._peers.values()):
            peer.drain()

    def cancel(self) -> None:
        for stream in tuple(self.streams):
            stream.cancel()

    def end(self) -> None:
        for peer in tuple(self._peers.values()):
            peer.close()

    @property
    def running(self) -> int:
        return len(self.streams)

    # -- for connections and calls --

    def begin(self, connection: Connection, stream_id: int, request: Request) -> Stream:
        return calls.call(self, connection, stream_id, request)

    def post(self, stream: calls.Process, reply: bytes) -> None:
        """Open a gate, from any thread."""
        self._posted.append((stream, reply))
        # The loop lowers the flag before it empties the deque: what was appended before is seen by it.
        if not self._woken and get_ident() != self._thread:
            self._woken = True
            self._wake.up()

    def take_posted(self) -> None:
        """Send what other threads have posted. For the loop's thread."""
        while self._posted:
            stream, reply = self._posted.popleft()
            stream.opened(reply)

    # -- the loop --

    def _turns(self, until: float) -> None:
        """Handle events until then."""
        poll, peers, posted, dirty, wake = self._poll.poll, self._peers, self._posted, self.dirty, self._wake.fd
        while (left := until - monotonic()) > 0:
            for fd, events in poll(0 if posted or dirty else left):
                peer = peers.get(fd)
                if peer is not None:
                    if events & _OUT:
                        peer.writable()
                    else:
                        peer.readable()
                elif fd == wake:
                    os.eventfd_read(wake)
                    self._woken = False
                elif fd in self._listeners:
                    self._accept(self._listeners[fd])
            if posted:
                self.take_posted()
            for connection in dirty:
                connection.flush()
            dirty.clear()

    def _tick(self) -> None:
        self._timers.tick()
        if self.watches:
            status = self.health.status()
            for watch in tuple(self.watches):
                watch.send_status(status)
        if not self._accepting:
            self._accept_again()
        now = self.clock()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            for peer in tuple(self._peers.values()):
                peer.sweep(now)

    # -- connections --

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                if not self._full:
                    log.warning("no connection can be accepted just now: %s", error.strerror)
                self._full = True
                self._stop_accepting()
            return  # or the client has left again
        self._full = False
        if len(self._peers) >= self._endpoint.max_connections:
            client.close()
            return
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = _Peer(self, client)
        self._peers[peer.fd] = peer
        self._poll.register(peer.fd, _IN)

    def _accept_again(self) -> None:
        for fd in self._listeners:
            self._poll.register(fd, _IN)
        self._accepting = True

    def _stop_accepting(self) -> None:
        """Until the next tick: else the loop would be woken by what it can do nothing about."""
        for fd in self._listeners:
            self._poll.unregister(fd)
        self._accepting = False

    def _stop_listening(self) -> None:
        if self._accepting:
            self._stop_accepting()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        if self._socket_file is not None:
            self._socket_file.remove()

    def watch(self, peer: _Peer, events: int) -> None:
        """What to be told of a connection's socket."""
        self._poll.modify(peer.fd, events)

    def forget(self, peer: _Peer) -> None:
        """A connection is closed."""
        self._poll.unregister(peer.fd)
        del self._peers[peer.fd]

    def _close(self) -> None:
        self._stop_listening()
        for peer in tuple(self._peers.values()):
            if peer.is_dirty:
                peer.flush()
            peer.hang_up()
        self._poll.close()


class _Peer(Connection):
    """A connection and its socket."""

    def __init__(self, server: Http2Server, client: socket.socket) -> None:
        self._server = server
        self._socket = client
        self.fd = client.fileno()
        self._unsent = memoryview(b"")
        self._heard = True
        self._heard_at = self._born_at = server.clock()
        self._pinged_at: float | None = None
        self._close_at: float | None = None
        self._hung_up = False
        super().__init__(server)

    def touched(self) -> None:
        self._server.dirty.append(self)

    def readable(self) -> None:
        """Take what has come. It may have ended, too."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return
        self._heard = True
        try:
            self.receive(data)
        except Exception as error:  # noqa: BLE001 - one connection's failure never ends the loop
            self._server.complaints.failed("a connection was ended", error)
            self.close(Code.INTERNAL_ERROR)

    def flush(self) -> None:
        """Send what there is, in one piece."""
        self.is_dirty = False
        if self._hung_up or self._unsent:
            return
        data = b"".join(self.out)
        self.out.clear()
        self._send(memoryview(data))
        if self._unsent:
            self._server.watch(self, _OUT)

    def writable(self) -> None:
        """Go on with what the socket had no room for."""
        self._send(self._unsent)
        if not (self._unsent or self._hung_up):
            self._server.watch(self, _IN)
            self.flush()

    def _send(self, data: memoryview) -> None:
        try:
            sent = self._socket.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.hang_up()
            return
        self._unsent = data[sent:]
        if self.closing and not (self._unsent or self.out) and self._close_at is None:
            # Closed at once, with something unread, TCP would take our GOAWAY back.
            self._close_at = self._server.clock() + LINGER_SECONDS
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def sweep(self, now: float) -> None:
        """Once a second: close what is silent for too long."""
        self.calm()
        if self._heard:
            self._heard, self._heard_at, self._pinged_at = False, now, None
        if (
            (self._close_at is not None and now >= self._close_at)
            or (not self.greeted and now >= self._born_at + HANDSHAKE_SECONDS)
            or (self._pinged_at is not None and now >= self._pinged_at + ANSWER_SECONDS)
        ):
            self.hang_up()
        elif self._pinged_at is None and now >= self._heard_at + QUIET_SECONDS:
            self._pinged_at = now
            self.ping()

    def hang_up(self) -> None:
        """Close the socket; the streams that are left hear of it."""
        if not self._hung_up:
            self._hung_up = True
            self._server.forget(self)
            self._socket.close()
            self.lost()


class _Wake:
    """An eventfd, closed with the last that could write to it: a gate may open after the server has gone."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def up(self) -> None:
        """Wake the loop."""
        os.eventfd_write(self.fd, 1)

    def __del__(self) -> None:
        os.close(self.fd)


class _SocketFile:
    """The file of a Unix socket. It is removed with the listener, when it is still ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = path.lstat().st_ino

    @classmethod
    def of(cls, address: str) -> _SocketFile | None:
        """None for TCP."""
        return cls(Path(address.removeprefix("unix:"))) if address.startswith("unix:") else None

    def remove(self) -> None:
        """Another server may have its own in its place."""
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()


def _listen(address: str) -> Iterator[socket.socket]:
    """Listening sockets, more than one where a name has several addresses. Raises OSError."""
    if address.startswith("unix:"):
        yield _listener(socket.AF_UNIX, address.removeprefix("unix:"))
        return
    host, port = host_and_port(address)
    found = 0
    for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        try:
            listener = _listener(family, (str(where[0]), port))
        except OSError as error:
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:  # localhost without IPv6
                continue
            raise
        found += 1
        port = listener.getsockname()[1]
        yield listener
    if not found:
        raise OSError(errno.EADDRNOTAVAIL, "no such address")


def _listener(family: int, where: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
