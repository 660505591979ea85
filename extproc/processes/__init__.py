"""Processes: how this one behaves, and one child with what it says and how it ended."""

from __future__ import annotations
