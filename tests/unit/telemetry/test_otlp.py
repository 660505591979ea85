"""Where spans go."""

from __future__ import annotations

import pytest

from extproc.config import Config
from extproc.telemetry import otlp

OURS = "http://ours:4317"


@pytest.mark.parametrize(
    ("setting", "environ", "expected"),
    [
        (None, {}, None),
        (OURS, {}, OURS),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://theirs:4317"}, "http://theirs:4317"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "theirs:4317"}, "http://theirs:4317"),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://b:2"},
            "https://b:2",
        ),
        (OURS, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://theirs:4317"}, OURS),
        (OURS, {"OTEL_SDK_DISABLED": "TRUE"}, None),
        (OURS, {"OTEL_TRACES_EXPORTER": "none"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
    ],
)
def test_endpoint(setting: str | None, environ: dict[str, str], expected: str | None) -> None:
    """Our setting first, then OpenTelemetry's variables, the more particular one before; and its ways to say no."""
    assert otlp.endpoint(Config(otlp=setting), environ) == expected


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 5.0),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}, 2.5),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "2500", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "20000"}, 20.0),
        ({"OTEL_BSP_EXPORT_TIMEOUT": "30000"}, 30.0),
        ({"OTEL_BSP_EXPORT_TIMEOUT": "1000", "OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}, 1.0),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon", "OTEL_BSP_EXPORT_TIMEOUT": "0"}, 5.0),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "nan", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "-1"}, 5.0),
    ],
)
def test_timeout(environ: dict[str, str], seconds: float) -> None:
    """OpenTelemetry's own variables, in milliseconds."""
    assert otlp.timeout_seconds(environ) == seconds
