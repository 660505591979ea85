"""Envoy's configuration as documents: read with the place of everything, and what the settings change in it."""

from __future__ import annotations
