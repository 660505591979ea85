"""What every process that holds prompts does first."""

from __future__ import annotations

import ctypes
import os
import resource


def restrict_process() -> None:
    """Nothing of a prompt may leave through a core dump or a careless file mode."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no core, no ptrace by others of our user
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a spool file each, for many uploads at once
