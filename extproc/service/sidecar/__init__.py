"""The sidecar's processes: the supervisor, its workers, the follower, the admin port."""

from __future__ import annotations
