"""The whole stack on one machine."""

from __future__ import annotations
