"""OpenMetrics' text format, which alone has exemplars."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

_END: Final = b"# EOF\n"


def text(registry: CollectorRegistry) -> bytes:
    """Everything of a registry, with the line that ends it."""
    made: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return made


def joined(first: bytes, second: bytes) -> bytes:
    """Two texts as one, which ends once. The first may be empty."""
    return first.removesuffix(_END) + second
