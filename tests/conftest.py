"""What every test may ask for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# gRPC's own handlers of a fork abort one child in twenty that a test starts while a channel is open. To be set before
# grpc is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import extproc

# No example is failed for being slow: machines are, and what hangs meets the timeout of the whole test. In CI the
# examples are the same in each run, so that a failure there belongs to the change.
settings.register_profile(
    "extproc",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# `make fuzz`: new examples each time, and many of them.
settings.register_profile("fuzz", settings.get_profile("extproc"), derandomize=False, max_examples=20_000)
settings.load_profile(os.environ.get("EXTPROC_TEST_PROFILE", "extproc"))

# A shell that runs this in the background has SIGINT ignored, which every program that a test starts would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# And one that runs it under nohup has SIGHUP ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_report_header() -> str:
    """Say which copy of the package is under test: `make test` tests the installed wheel."""
    return f"extproc: {Path(extproc.__file__).parent}"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of this repository, for tests of what it holds beside the package."""
    return Path(__file__).parents[1]
