"""The attempts that failed before a request's last one, from Envoy's upstream log.

    attempts.add(origin, fields)               # an attempt has failed
    attempts.before_last(origin, 3)            # the request is over, after three

Envoy tells of an attempt when it is over, and of the request at its end, on one stream: in the shipped envoy.yaml both
loggers have the same `common_config`, so Envoy makes one of them. An attempt comes without the metadata that has the
exchange's id. What brings the two together is its origin: the client's address with its port, and Envoy's request id.
A client can choose the second, never the first, so it may at most confuse its own requests on one connection.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from extproc.core.records import Attempt

Origin = tuple[str | None, str]

NOBODY: Final[Origin] = (None, "")
"""No request comes from there."""

MOST: Final = 4096
"""Requests of which attempts are kept. Their end may be an hour away, or never come, where a stream was lost."""


class Attempts:
    """Those of requests that are not over, of one worker."""

    def __init__(self) -> None:
        self._failed: OrderedDict[Origin, list[Attempt]] = OrderedDict()

    def __len__(self) -> int:
        """Requests of which an attempt is kept."""
        return len(self._failed)

    def add(self, origin: Origin, attempt: Attempt) -> None:
        """Keep an attempt that has failed."""
        self._failed.setdefault(origin, []).append(attempt)
        if len(self._failed) > MOST:
            self._failed.popitem(last=False)

    def before_last(self, origin: Origin, attempts: int) -> list[Attempt] | None:
        """Those before the last one of a request that is over, of which the request's own entry tells. None: not all
        of them are known."""
        failed = self._failed.pop(origin, [])
        before = max(attempts - 1, 0)
        # The last one is among them where it failed, too.
        return failed[:before] if len(failed) in (before, attempts) or not before else None
