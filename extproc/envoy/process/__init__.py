"""A running Envoy: started, asked through its admin interface, stopped."""

from __future__ import annotations
