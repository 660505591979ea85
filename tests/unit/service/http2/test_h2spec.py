"""h2spec: what RFC 9113 and RFC 7541 ask of a server, asked by another implementation. Needs Go."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import echo_server, h2spec, jaeger

TABLE_SIZE = ["Sends a dynamic table size update", "Sends multiple dynamic table size update"]
"""They make the table larger than 0, whatever the server says that it may be: RFC 7541, section 6.3, forbids it."""

pytestmark = [
    pytest.mark.skipif(jaeger.go() is None, reason="h2spec is built with Go"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


def ask(transport: str) -> h2spec.Result:
    """Run it against a server of its own."""
    command = [sys.executable, echo_server.__file__, transport, "127.0.0.1:0", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            result = h2spec.run(int(server.stdout.readline().rpartition(":")[2]))
        finally:
            server.terminate()
        assert server.wait(150) == 0
        assert server.stderr.read() == ""
    return result


def test_every_test_passes() -> None:
    """With a table of the default size, which h2spec takes for granted."""
    assert ask("http2_with_table") == h2spec.Result(passed=146, skipped=0, failed=[])


def test_as_we_serve_it() -> None:
    """Without a table, all but those that use one."""
    assert ask("http2") == h2spec.Result(passed=144, skipped=0, failed=TABLE_SIZE)
