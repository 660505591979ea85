"""A bounded load on an LLM server."""

from __future__ import annotations
