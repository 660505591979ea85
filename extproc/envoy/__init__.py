"""The real Envoy on this machine: where its program is, what its files say, and the stack around it."""

from __future__ import annotations
