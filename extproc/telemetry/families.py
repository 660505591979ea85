"""Our own metrics of the journal, one table: `metrics.py` counts them, and docs/metrics.md has them in this order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from extproc.telemetry import semconv

SHORT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_BUCKETS: Final = semconv.DURATION_BUCKETS


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric: its name, what it says, its labels. A counter's name gets `_total` when it is shown."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Of a histogram, in seconds; empty for a counter."""

    @property
    def row(self) -> str:
        """Its line in docs/metrics.md."""
        name, kind = (self.name, "histogram") if self.buckets else (f"{self.name}_total", "counter")
        return f"| `{name}` | {kind} | {', '.join(sorted(self.labels))} | {self.text} |"


EXCHANGES: Final = Family("extproc_exchanges", "Exchanges by how they ended.", ("outcome",))
RESULTS: Final = Family(
    "extproc_exchange_results",
    "The same by whose doing their end was and by the status of the answer: 2xx, 4xx, none.",
    ("class", "outcome", "status"),
)
UPSTREAM_EXCHANGES: Final = Family(
    "extproc_upstream_exchanges",
    "Exchanges by the backend that got them, its cluster and whose doing their end was.",
    ("upstream", "cluster", "class"),
)
FAILED_ATTEMPTS: Final = Family(
    "extproc_failed_attempts",
    "Attempts that failed and that another one followed, by the backend that was asked.",
    ("upstream", "cluster"),
)
REQUEST_END: Final = Family(
    "extproc_request_end_seconds", "From the request's headers to its last byte.", ("class",), LONG_BUCKETS
)
FIRST_BYTE: Final = Family(
    "extproc_first_byte_seconds", "To the first byte of the answer's body.", ("class",), LONG_BUCKETS
)
FIRST_TOKEN: Final = Family(
    "extproc_first_token_seconds", "To the first token of the answer.", ("class",), LONG_BUCKETS
)
CHUNK_INTERVAL: Final = Family(
    "extproc_chunk_interval_seconds",
    "Between two chunks of an answer: its mean, once an answer.",
    ("class",),
    SHORT_BUCKETS,
)
DURATION: Final = Family(
    "extproc_exchange_duration_seconds", "From the request's headers to the end.", ("class",), LONG_BUCKETS
)
UPLOAD: Final = Family(
    "extproc_client_upload_seconds", "Envoy: from the request's first byte to its last one.", (), LONG_BUCKETS
)
BACKEND: Final = Family(
    "extproc_backend_first_byte_seconds",
    "Envoy: from the last byte of the request to the backend to the first byte of its answer.",
    (),
    LONG_BUCKETS,
)
CHUNKS: Final = Family("extproc_chunks", "Chunks of bodies that passed.", ("direction",))
BYTES: Final = Family("extproc_body_bytes", "Bytes of bodies that passed.", ("direction",))
LATE: Final = Family("extproc_late_messages", "Messages after the end of their direction.", ("kind",))
DUPLICATES: Final = Family("extproc_duplicate_end_of_stream", "Body messages with end_of_stream after the end.")
PARSE_ERRORS: Final = Family("extproc_parse_errors", "Bodies that were not the format.", ("kind",))
INTEGRITY: Final = Family(
    "extproc_integrity_findings", "Directions of which Envoy counted other bytes than were recorded."
)
UNTRACED: Final = Family("extproc_untraced_exchanges", "Exchanges whose trace nobody before the recorder had begun.")
MISSING: Final = Family("extproc_access_log_missing", "Exchanges without Envoy's access entry.")
ACCESS_LAG: Final = Family(
    "extproc_access_log_lag_seconds", "From the end of a request to the arrival of its access entry.", (), SHORT_BUCKETS
)
UNMATCHED: Final = Family(
    "extproc_unmatched_access_entries",
    (
        "Access entries without an exchange, by the reason: `bypass` by a route's rule, `refused` by us, "
        "`malformed` before any filter saw it, `malformed_body` where what followed its headers was no HTTP, "
        "`local` where Envoy ended it for another reason and no backend had it, `unrecorded` for what should "
        "not have passed."
    ),
    ("reason",),
)
INCIDENTS: Final = Family(
    "extproc_incidents",
    "Deaths, hangs and freezes of backends, by their class and the backend.",
    ("class", "upstream"),
)
INCIDENT_CHANGES: Final = Family(
    "extproc_incident_changes",
    (
        "Incidents that turned out to be of another class than they were counted as: a hang that went on was a freeze. "
        "No incident is counted twice."
    ),
    ("class", "counted_as", "upstream"),
)
REPEATS: Final = Family(
    "extproc_incident_repeats",
    "Requests like one that may have killed this backend just before.",
    ("upstream",),
)
GAPS: Final = Family("extproc_gaps", "Requests and answers that passed or were refused unrecorded.", ("direction",))

OWN: Final = (
    EXCHANGES,
    RESULTS,
    UPSTREAM_EXCHANGES,
    FAILED_ATTEMPTS,
    REQUEST_END,
    FIRST_BYTE,
    FIRST_TOKEN,
    CHUNK_INTERVAL,
    DURATION,
    UPLOAD,
    BACKEND,
    CHUNKS,
    BYTES,
    LATE,
    DUPLICATES,
    PARSE_ERRORS,
    INTEGRITY,
    UNTRACED,
    MISSING,
    ACCESS_LAG,
    UNMATCHED,
    GAPS,
    INCIDENTS,
    INCIDENT_CHANGES,
    REPEATS,
)
