"""Which requests Envoy is asked to keep back until they are recorded, and what is learnt where it cannot.

A held request has to fit into Envoy's buffers: the listener's `per_connection_buffer_limit_bytes`, and for HTTP/2 the
windows. Where it does not, Envoy answers 413, or stops reading and waits for ever, by what stands before the recorder
in the chain. `extproc check` compares the two, but not every configuration is ours to check: Envoy Gateway's listeners
have 32 KiB unless `ClientTrafficPolicy.spec.connection.bufferLimit` says more. A size that failed is not tried again.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

log = logging.getLogger("extproc.service")

STALLED_SECONDS: Final = 1.0
"""A held request of which nothing came for so long, until its client left, may have met a full buffer."""
STALLS: Final = 2
"""So many, none of them as small as one that was held well, are no chance."""
TOO_LARGE: Final = "request_payload_too_large"
"""Envoy's response_code_details of a 413 because of its buffers."""


class Holding:
    """The limits of one worker, in bytes: for a request, and for all that are held at once."""

    def __init__(self, request_bytes: int, total_bytes: int) -> None:
        self.failures = 0
        """Held requests that Envoy could not keep."""
        self._most = request_bytes
        self._free = total_bytes
        self._held_well = 0
        self._stalled: list[int] = []

    def take(self, announced: int | None) -> int:
        """How many bytes of a request Envoy may keep back for us: all that it announced, or none."""
        if not announced or announced > min(self._most, self._free):
            return 0
        self._free -= announced
        return announced

    def release(self, held: int) -> None:
        """A held request has come, or is over."""
        self._free += held

    def came(self, held: int) -> None:
        """A held request has come whole: so many bytes fit."""
        self._held_well = max(self._held_well, held)

    def was_refused(self, held: int) -> None:
        """Envoy has answered 413, because it could not keep so much."""
        self._lower(held, "Envoy has answered it with 413")

    def was_left(self, held: int, since: float) -> None:
        """The client of a held request has left, `since` the time of its headers, and nothing of its body had come."""
        if held <= self._held_well or monotonic() - since < STALLED_SECONDS:
            return
        self._stalled.append(held)
        if len(self._stalled) >= STALLS:
            self._lower(min(self._stalled), "Envoy has read no further, until its client left")

    def _lower(self, held: int, what: str) -> None:
        self.failures += 1
        self._stalled.clear()
        if held <= self._most:
            self._most = held - 1
            log.warning(
                "a request of %d bytes was held back, and %s: its buffers are smaller. From now on this worker streams"
                " those of that size. Raise per_connection_buffer_limit_bytes of the listener (Envoy"
                " Gateway: ClientTrafficPolicy.spec.connection.bufferLimit), or lower hold_request_bytes",
                held,
                what,
            )
