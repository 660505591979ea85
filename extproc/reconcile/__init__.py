"""Envoy's account of the requests, compared with the journal's."""

from __future__ import annotations
