"""The real deaths once more: their journals, replayed against a server that dies of what the real one had died of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.mortal import Mortal, free_port
from support.recorded import CHAT, Recording
from support.stack import eventually

REAL = Path(__file__).parent / "real"
TEXT = REAL / "k_response_format_text"
LATCHED = REAL / "k_regex_bad_stream"
TEXT_KILLER = "01a21ecd-9746-746e-bf8e-ababbee72f0f"
TEXT_RULE = "response_format.type=text"
LATCH_RULE = "structured_outputs.regex~[$] then structured_outputs.regex=foo**"
QUICK = ("--settle", "0.3", "--wait", "60")


def bisect(journal: Path, url: str, state: Path, *arguments: str, id: str = "last") -> tuple[int, dict[str, Any]]:
    """The exit code, and what was printed."""
    command = ("replay", id, "--bisect", "--json", "--to", url, "--data-dir", journal, "--state", state)
    result = invoke(*command, *QUICK, *arguments)
    assert result.stdout, result.stderr
    return result.exit_code, json.loads(result.stdout)


def test_the_killer_is_proven_and_made_small(tmp_path: Path) -> None:
    """Two deaths are enough, three members are left, and the curl command that is printed kills, too."""
    with Mortal(TEXT_RULE) as server:
        code, proof = bisect(TEXT, server.url, tmp_path / "tries")
        assert (code, proof["verdict"], proof["killers"], proof["latch"]) == (1, "proven", [TEXT_KILLER], None)
        assert proof["restarts"] == server.deaths == 2
        assert proof["minimal"] == {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Hi"}],
            "response_format": {"type": "text"},
        }
        eventually(lambda: server.log.count("ready") == 3, "the server's return")
        if shutil.which("curl"):
            subprocess.run(["/bin/sh"], input=proof["curl"].encode(), capture_output=True, timeout=50, check=False)
            assert server.deaths == 3


def test_a_latched_pair_is_proven(tmp_path: Path) -> None:
    """The trigger is acquitted alone, and proven after the earlier request that the ranking names."""
    with Mortal(LATCH_RULE) as server:
        code, proof = bisect(LATCHED, server.url, tmp_path / "tries")
        assert (code, proof["verdict"]) == (1, "proven")
        assert proof["killers"] == ["01a21ecf-ef88-7f7e-b310-69e752471d3b"]
        assert proof["latch"] == "01a21ecf-d5f0-7193-b42d-718d8e5ef60e"
        assert proof["restarts"] == server.deaths <= 3
        assert set(proof["minimal"]) == {"model", "messages", "structured_outputs"}


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was tried is not tried again: the server does not die for the same question twice."""
    with Mortal(TEXT_RULE) as server:
        first = bisect(TEXT, server.url, tmp_path / "tries")
        assert bisect(TEXT, server.url, tmp_path / "tries") == first
        assert server.deaths == 2


def test_a_cut_search_goes_on_from_its_last_line(tmp_path: Path) -> None:
    """A line that was cut is as good as none."""
    with Mortal(TEXT_RULE) as server:
        code, proof = bisect(TEXT, server.url, tmp_path / "tries")
        lines = (tmp_path / "tries").read_text().splitlines(keepends=True)
        (tmp_path / "tries").write_text("".join(lines[:-1]) + lines[-1][:30])
        assert bisect(TEXT, server.url, tmp_path / "tries") == (code, proof)
        assert server.deaths == 3


def test_a_server_that_fails_what_is_good_proves_nothing(tmp_path: Path) -> None:
    """It is said, and nothing else is sent."""
    with Mortal("model", how="keep-500", restart_after=None) as server:
        code, proof = bisect(TEXT, server.url, tmp_path / "tries")
    assert (code, proof["verdict"], proof["tries"]) == (1, "broken_target", 0)


def test_a_server_that_nothing_kills_is_exit_0(tmp_path: Path) -> None:
    """After the whole plan. `--confirm` looks for what kills but now and then in as many rounds."""
    with Mortal("never_there") as server:
        code, proof = bisect(TEXT, server.url, tmp_path / "tries", "--confirm", "3", id=TEXT_KILLER)
    assert (code, proof["verdict"], proof["killers"]) == (0, "not_proven", [])
    assert (proof["tries"], proof["restarts"]) == (3, 0)


def test_a_restart_command_brings_it_back(tmp_path: Path) -> None:
    """Though it runs the server in the foreground, and leaves it there when the search is over."""
    server = Mortal(TEXT_RULE, restart_after=None)
    command = f"echo $$ > {tmp_path}/pid; exec {server.command}"
    try:
        code, proof = bisect(TEXT, server.url, tmp_path / "tries", "--restart", command)
        assert (code, proof["verdict"], proof["restarts"]) == (1, "proven", 2)
        assert invoke("replay", TEXT_KILLER, "--to", server.url, "--data-dir", TEXT, *QUICK).exit_code == 1
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL) if server_runs(tmp_path) else None


def server_runs(directory: Path) -> bool:
    """Whether the process whose id stands in `pid` is there."""
    return (directory / "pid").exists() and Path(f"/proc/{(directory / 'pid').read_text().strip()}").exists()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "how", ["frames", "exit", "kill", "500", "hang", "freeze=4", "keep-500", "keep-503", "latch=0.2"]
)
def test_replay_tells_that_it_killed_the_server_however_that_died(tmp_path: Path, how: str, stream: bool) -> None:
    """Exit 1, streaming or not; 0 for one that does no harm."""
    start, rest = CHAT[:-1], b',"stream":true}' if stream else b"}"
    with Recording(tmp_path / "data") as recording:
        killer = recording.add(start + b',"logprobs":true' + rest)
        harmless = recording.add(start + b"}")
    with Mortal("logprobs", how=how, restart_after=30) as server:
        arguments = ("--to", server.url, "--data-dir", tmp_path / "data", "--patience", "1.5", "--settle", "1")
        assert invoke("replay", harmless, *arguments).exit_code == 0
        result = invoke("replay", killer, "--json", *arguments)
    assert result.exit_code == 1, result.stderr
    assert json.loads(result.stdout)["verdict"] == ("hung" if how in ("hang", "freeze=4") else "killed")


def test_replay_is_not_deceived_by_a_quick_restart(tmp_path: Path) -> None:
    """A server that was started anew in the meantime has died, however well it is now."""
    with Recording(tmp_path / "data") as recording:
        killer = recording.add(CHAT[:-1] + b',"logprobs":true}')
    with Mortal("logprobs", how="latch=0.1,exit", restart_after=0) as server:
        result = invoke("replay", killer, "--to", server.url, "--data-dir", tmp_path / "data", "--settle", "5")
    assert result.exit_code == 1
    assert "died" in result.stderr


def test_an_error_in_a_stream_is_not_well_though_the_status_is_200(tmp_path: Path) -> None:
    """And one that fails alone kills nobody."""
    with Recording(tmp_path / "data") as recording:
        id = recording.add(CHAT[:-1] + b',"logprobs":true,"stream":true}')
    with Mortal("logprobs", how="alone") as server:
        result = invoke("replay", id, "--json", "--to", server.url, "--data-dir", tmp_path / "data", *QUICK)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] in ("broke", "other_answer")
    assert "the target is alive" in result.stderr


def test_a_whole_incident_is_sent_as_it_was(tmp_path: Path) -> None:
    """It kills again, as often as it is sent; a server that is immune lives."""
    incident = json.loads(invoke("incidents", "last", "--json", "--data-dir", TEXT).stdout)["id"]
    arguments = ("replay", incident, "--data-dir", TEXT, "--speed", "20", *QUICK, "--json")
    with Mortal(TEXT_RULE) as server:
        result = invoke(*arguments, "--to", server.url, "--repeat", "2")
        assert (result.exit_code, json.loads(result.stdout)["deaths"]) == (1, 2), result.stderr
        assert server.deaths == 2
    with Mortal("never_there") as server:
        result = invoke(*arguments, "--to", server.url)
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (0, "as_recorded"), result.stderr


def test_the_backend_that_died_is_spared(tmp_path: Path) -> None:
    """Unless the command line says that it is meant."""
    incident = json.loads(invoke("incidents", "last", "--json", "--data-dir", TEXT).stdout)
    for arguments in ((incident["id"],), ("last", "--bisect")):
        url = f"http://localhost:{incident['upstream'].rpartition(':')[2]}"
        result = invoke("replay", *arguments, "--to", url, "--data-dir", TEXT)
        assert result.exit_code == 1
        assert "the backend that this befell" in result.stderr
        allowed = invoke(
            "replay", *arguments, "--to", url, "--data-dir", TEXT, "--allow-production", "--state", tmp_path / "t"
        )
        assert "the target fails before" in allowed.output or "fails before" in allowed.output


def test_a_server_that_is_not_there_is_no_proof(tmp_path: Path) -> None:
    """It is said, and no request is blamed."""
    code, proof = bisect(TEXT, f"http://127.0.0.1:{free_port()}", tmp_path / "tries")
    assert (code, proof["verdict"]) == (1, "broken_target")
