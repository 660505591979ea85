"""extproc: a flight recorder for LLM traffic behind Envoy."""

from __future__ import annotations

__version__ = "0.1.0"
