"""Where spans go: our setting, else OpenTelemetry's own variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from extproc.config import Config

TIMEOUT_SECONDS: Final = 5.0
"""How long a batch of spans may take, where no variable says so."""

_TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_EXPORT_TIMEOUT: Final = "OTEL_BSP_EXPORT_TIMEOUT"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def endpoint(config: Config, environ: Mapping[str, str]) -> str | None:
    """The collector's URL (OTLP over gRPC), or None: no spans are wanted."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    named = config.otlp or next((environ[name] for name in _ENDPOINTS if environ.get(name)), None)
    if named is None or "://" in named:
        return named
    return f"http://{named}"


def timeout_seconds(environ: Mapping[str, str]) -> float:
    """How long a batch of spans may take: the shorter of the exporter's time and the batch processor's.

    Their variables are in milliseconds, as OpenTelemetry's specification has it. What is none counts as not set.
    """
    own = next(filter(None, (_milliseconds(environ.get(name)) for name in _TIMEOUTS)), None)
    whole = _milliseconds(environ.get(_EXPORT_TIMEOUT))
    return min((each / 1000 for each in (own, whole) if each is not None), default=TIMEOUT_SECONDS)


def _milliseconds(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
