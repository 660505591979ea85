"""The commands: one small module each, imported only when its command runs."""

from __future__ import annotations
