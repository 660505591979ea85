"""Where spans go: our setting, else OpenTelemetry's own variables."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.config import Config

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def endpoint(config: Config, environ: Mapping[str, str]) -> str | None:
    """The collector's URL (OTLP over gRPC), or None: no spans are wanted."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    named = config.otlp or next((environ[name] for name in _ENDPOINTS if environ.get(name)), None)
    if named is None or "://" in named:
        return named
    return f"http://{named}"
