"""Whether tests that have a long form run it: `make thorough`, EXTPROC_TEST_THOROUGH=1."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("EXTPROC_TEST_THOROUGH"))
