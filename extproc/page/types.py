"""What `/api/v1` answers, where that is not what a command prints: described by types, from which come its schemas."""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.joined import NO_LLM, Exchange
from extproc.history import filters


class Row(msgspec.Struct, frozen=True):
    """An exchange in a list. A field is null where nothing is known of it."""

    id: str
    started_at: str
    ended_at: str | None
    duration_ms: float | None
    outcome: str | None
    class_: str | None = msgspec.field(name="class")
    status: int | None
    method: str | None
    path: str | None
    model: str | None
    upstream: str | None
    cluster: str | None
    client: str | None
    key: str | None
    tokens_in: int | None
    tokens_out: int | None
    ttft_ms: float | None


class Exchanges(msgspec.Struct, frozen=True):
    """A page of exchanges, the newest first: whole ones, or rows with `view=rows`."""

    exchanges: list[Any]
    next: str | None
    """Give it as `before` for the page after this one; null where there is none."""


class Bin(msgspec.Struct, frozen=True):
    """A span of a histogram."""

    at: str
    classes: dict[str, int]
    """How many exchanges started in it, by outcome class."""


class Histogram(msgspec.Struct, frozen=True):
    """How many exchanges started when. Spans without any are left out."""

    seconds: int
    """How long each span is."""
    bins: list[Bin]


class Percentiles(msgspec.Struct, frozen=True):
    """In milliseconds; null where there were none."""

    p50: float | None
    p90: float | None
    p99: float | None


class Count(msgspec.Struct, frozen=True):
    """Exchanges with something in common, which stands in a field of that name."""

    exchanges: int
    errors: int
    classes: dict[str, int]
    failed_attempts: int
    duration_ms: Percentiles
    ttft_ms: Percentiles


class Suspect(msgspec.Struct, frozen=True):
    """A request that may have caused an incident."""

    exchange: str
    rank: int
    score: float
    reasons: list[str]
    latch: str | None
    """An earlier request that may have made this one deadly."""


class Incident(msgspec.Struct, frozen=True):
    """What befell a backend."""

    id: str
    class_: str = msgspec.field(name="class")
    upstream: str
    cluster: str | None
    at: str
    ended_at: str | None
    """When a hang or a freeze was over; null: it lasts, or it was none."""
    confidence: float
    evidence: list[str]
    verdict: str
    """`suspects` or `no_request`."""
    suspects: list[Suspect]
    in_flight: list[str]
    backend: dict[str, str | None]


class Held(msgspec.Struct, frozen=True):
    """What is in quarantine."""

    mode: str | None
    """What happens to requests that no entry says otherwise of; null: what the settings say."""
    entries: list[dict[str, Any]]
    """As `extproc quarantine list --json` has them, without what they have met."""


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To put requests into quarantine."""

    id: str
    """An exchange, or an incident, whose first suspect is meant."""
    expires: str = "24h"
    """An age, or `never`."""
    mode: str | None = None
    """`off`, `shadow`, `refuse` or `route`; null: that of all."""


class SendAgain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To send a request again."""

    to: str
    """The name of a server."""


class Sent(msgspec.Struct, frozen=True):
    """What came of it, as `extproc replay --json` prints it."""

    verdict: str
    why: str
    exchange: str
    recorded: str | None
    answers: list[dict[str, Any]]


class EnvoyFile(msgspec.Struct, frozen=True):
    """A file of the Envoy configuration that is live."""

    name: str
    changed_at: str
    bytes: int


class RareParameter(msgspec.Struct, frozen=True):
    """A parameter of a request, and how many others have it so."""

    name: str
    """Its place in the request: `response_format.type`."""
    kind: str
    """What stands there; values that engines treat alike are one kind."""
    count: int
    share: float


class Rare(msgspec.Struct, frozen=True):
    """What is rare in a request, the rarest first, as far as the index has counted."""

    of: int
    """Requests for the same model that were served."""
    parameters: list[RareParameter]


class Said(msgspec.Struct, frozen=True):
    """Another exchange of a conversation."""

    exchange: Row
    relation: str
    """`earlier`: this one goes on with all of it; `later`: it goes on with all of this one; `same`: both say the same;
    `branch`: they begin alike and part ways."""
    messages: int
    """How many its request has."""


class Conversation(msgspec.Struct, frozen=True):
    """Exchanges that begin with the same messages up to the user's first one, the oldest first: of those in the index
    that ended near it."""

    messages: int
    """How many the request of this one has; 0: it is none of a conversation."""
    others: list[Said]
    more: bool
    """Whether there are others, farther away."""


class About(msgspec.Struct, frozen=True):
    """This page."""

    version: str
    directories: list[str]
    redacted: bool
    jaeger_url: str
    who: str
    """Whose token was used; empty where none is needed."""
    actions: bool
    """Whether more than reading is answered."""
    servers: list[str]
    """The names of those to which a request may be sent again."""


class Problem(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    error: str


def row(exchange: Exchange) -> Row:
    """An exchange as a row."""
    tokens_in, tokens_out = filters.tokens(exchange)
    return Row(
        id=exchange.id,
        started_at=exchange.started_at,
        ended_at=exchange.ended_at,
        duration_ms=exchange.duration_ms,
        outcome=exchange.outcome,
        class_=exchange.class_,
        status=exchange.status,
        method=exchange.method,
        path=exchange.path,
        model=filters.model(exchange) or None,
        upstream=exchange.upstream,
        cluster=exchange.cluster,
        client=exchange.client,
        key=exchange.key,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        ttft_ms=(exchange.llm or NO_LLM).ttft_ms,
    )
