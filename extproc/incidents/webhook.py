"""Reports to a webhook: signed, tried again, and nobody waits for them.

    webhook = Webhook(url, secret)
    webhook.send(Delivery(id, "incident", {...}), done)    # returns at once; `done` when it was taken
    webhook.close(timeout)

A POST of JSON, with these headers:

    X-Extproc-Event        `incident`, `ended` (a hang is over, perhaps as a freeze), `changed` (its class, or its first
                           suspect, is another one), or `repeat`
    X-Extproc-Delivery     the same for each try of one delivery: who has seen it already leaves it
    X-Extproc-Timestamp    seconds since 1970, of this try
    X-Extproc-Signature    `sha256=` and the HMAC-SHA256, in hex, of `TIMESTAMP.BODY` with the secret; only with one

Any 2xx is success. A receiver that is away, or says 5xx, 408 or 429, is tried again after `PAUSES`, so that nothing is
missed in an hour; one that says anything else is tried `REFUSALS` times, for it will hardly change its mind. Deliveries
go out one after the other. Redirects are not followed: a signature is for the receiver named.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import ssl
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from extproc import __version__
from extproc.errors import ConfigError

SECRET_VARIABLE: Final = "EXTPROC_WEBHOOK_SECRET"  # noqa: S105 - its name
MOST_WAITING: Final = 100
TIMEOUT_SECONDS: Final = 10.0
PAUSES: Final = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 600.0, 600.0, 600.0, 600.0)
"""Between the tries: an hour together."""
REFUSALS: Final = 3
_LATER: Final = frozenset({408, 429})
_log = logging.getLogger("extproc.incidents")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing to tell."""

    id: str
    event: str
    body: Mapping[str, Any]


def secret(path: Path | None, environ: Mapping[str, str]) -> bytes | None:
    """The secret of a file, without the line's end, or of the environment; None where there is none. Raises ConfigError
    for a file that cannot be read or is empty."""
    if path is None:
        return environ.get(SECRET_VARIABLE, "").encode() or None
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"webhook_secret_file: {path}: {error.strerror}") from error
    if not found:
        raise ConfigError(f"webhook_secret_file: {path}: is empty")
    return found


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What the header says."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Webhook:
    """One receiver. `send` is for any thread."""

    def __init__(self, url: str, secret: bytes | None, pauses: Sequence[float] = PAUSES) -> None:
        self.delivered = 0
        self.failed = 0
        """Deliveries that were given up, or for which there was no room."""
        self._url = urllib.parse.urlsplit(url)
        self._secret = secret
        self._pauses = pauses
        self._waiting: deque[tuple[Delivery, Callable[[], None]]] = deque()
        self._there = threading.Semaphore(0)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def send(self, delivery: Delivery, done: Callable[[], None] = lambda: None) -> None:
        """Queue a delivery; with a full queue it is only counted, and logged."""
        if len(self._waiting) >= MOST_WAITING:
            self.failed += 1
            _log.error("too much waits for the webhook: a delivery is left out", extra={"delivery": delivery.id})
            return
        self._waiting.append((delivery, done))
        self._there.release()

    def close(self, timeout: float) -> None:
        """Deliver what waits, with one try each, for at most so many seconds."""
        self._closing.set()
        self._there.release()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._there.acquire()
            if not self._waiting:
                return
            delivery, done = self._waiting[0]
            if self._deliver(delivery):
                self.delivered += 1
                done()
            else:
                self.failed += 1
            self._waiting.popleft()

    def _deliver(self, delivery: Delivery) -> bool:
        body = json.dumps(delivery.body, ensure_ascii=True).encode()
        refusals = 0
        for pause in (*self._pauses, None):
            said = self._try(delivery, body)
            if isinstance(said, int) and 200 <= said < 300:
                return True
            _log.warning("the webhook did not take a delivery: %s", said, extra={"delivery": delivery.id})
            refusals += isinstance(said, int) and said < 500 and said not in _LATER
            if pause is None or refusals >= REFUSALS or self._closing.is_set():
                break
            self._closing.wait(pause)
        _log.error("a delivery to the webhook is given up", extra={"delivery": delivery.id})
        return False

    def _try(self, delivery: Delivery, body: bytes) -> int | str:
        """One try: the status, or why there was none."""
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "user-agent": f"extproc/{__version__}",
            "x-extproc-event": delivery.event,
            "x-extproc-delivery": delivery.id,
            "x-extproc-timestamp": timestamp,
        }
        if self._secret is not None:
            headers["x-extproc-signature"] = signature(self._secret, timestamp, body)
        connection = self._connection()
        try:
            connection.request("POST", self._target, body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()

    @property
    def _target(self) -> str:
        return (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
