"""A configuration made live where a running Envoy reads it."""

from __future__ import annotations
