"""What can be known of a configuration before Envoy runs on it."""

from __future__ import annotations
