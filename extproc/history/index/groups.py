"""Rows counted by something that they have in common, with all their times, and no exchange made of any of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from extproc.core.records import Attempt
from extproc.history.filters import without_port

_HOUR_US: Final = 3_600_000_000
_attempts = msgspec.json.Decoder(list[Attempt]).decode

EXPRESSIONS: Final[Mapping[str, str]] = {
    "upstream": "upstream",
    "model": "CASE WHEN coalesce(model, :nothing) != :nothing THEN model ELSE response_model END",
    "route": "route",
    "outcome": "outcome",
    "status": "status",
    "client": "client",
    "key": "key",
    "api": "api",
    "fingerprint": "fingerprint",
    "hour": f"started / {_HOUR_US}",
}
"""What stands for the key of an exchange in its row."""

_OTHERS: Final = frozenset({"status", "client", "hour"})
"""Those that are no words."""


@dataclass(slots=True)
class Group:
    """Exchanges with the same key that ended in the same way. Times are microseconds."""

    key: str | None
    outcome: str
    status: int | None
    grpc_status: str | None
    count: int = 0
    durations: array[int] = field(default_factory=lambda: array("q"))
    first_tokens: array[int] = field(default_factory=lambda: array("q"))
    failed_attempts: list[Attempt] = field(default_factory=list)

    def add(self, duration: int | None, first_token: int | None, failed_attempts: str | None) -> None:
        """Take one row in."""
        self.count += 1
        if duration is not None:
            self.durations.append(duration)
        if first_token is not None:
            self.first_tokens.append(first_token)
        if failed_attempts is not None:
            self.failed_attempts += _attempts(failed_attempts)


def shown(name: str, words: Mapping[int, str]) -> Callable[[Any], str | None]:
    """How a row's key is called."""
    if name not in _OTHERS:
        return lambda key: None if key is None else words[key]
    if name == "client":
        return lambda key: None if key is None else without_port(key)
    if name == "hour":
        return lambda key: f"{datetime.fromtimestamp(key * _HOUR_US // 1_000_000, UTC):%Y-%m-%dT%H}:00Z"
    return lambda key: None if key is None else str(key)
