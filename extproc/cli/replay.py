"""`extproc replay`: what was recorded once more, and what it does to a server."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from extproc.cli import curl, options, output, sending
from extproc.cli.completion import complete_id
from extproc.core.joined import NO_REQUEST
from extproc.errors import ConfigError, ExtprocError
from extproc.fleet.span import Span
from extproc.history.join import Exchange
from extproc.incidents.incident import ID, Incident
from extproc.replay import addresses, material, prove, window
from extproc.replay.answer import Answer
from extproc.replay.material import Credentials, Material, MissingCredentialsError
from extproc.replay.prove import Proof, Wishes
from extproc.replay.request import Request, prepare
from extproc.replay.sender import Hearer, Sending
from extproc.replay.target import Health, Patience, State, Target
from extproc.replay.tries import Tries
from extproc.replay.verdict import Verdict, judge
from extproc.replay.window import Step


@dataclass(frozen=True, slots=True)
class _Asked:
    """The command line."""

    url: str
    directories: Sequence[Path]
    credentials: Credentials
    restart: str | None
    health: str | None
    patience: Patience
    speed: float
    repeat: int
    concurrency: int
    confirm: int
    minimal: bool
    redact: bool
    state_file: Path | None
    production: bool
    as_json: bool

    def target(self, known_good: Request | None) -> Target:
        """The server, with what it must answer."""
        log = self.state_file.with_suffix(".restart.log") if self.state_file is not None and self.restart else None
        return Target(
            self.url,
            known_good=known_good,
            health=self.health,
            restart=self.restart,
            restart_log=log,
            patience=self.patience,
            report=_report,
        )


@click.command
@click.argument("id", metavar="ID|INCIDENT", shell_complete=complete_id)
@click.option("--to", "url", type=sending.Server(), metavar="URL", help="Send it to this server: http://HOST:PORT.")
@click.option("--curl", "as_curl", is_flag=True, help="Print a curl command instead; with --to, for that server.")
@click.option("--bisect", is_flag=True, help="Search for what kills the server, and make it as small as it gets.")
@click.option(
    "--confirm",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="--bisect: try what kills N times, and search N times for what kills but now and then.",
)
@click.option(
    "--restart",
    metavar="CMD",
    help="A shell command that starts the server anew, one that still runs, too. [default: wait]",
)
@click.option("--health", metavar="PATH", help="A path that answers 2xx while the server is well. [default: /health]")
@click.option(
    "--repeat", type=click.IntRange(1, 100_000), default=1, show_default=True, metavar="N", help="Send it so often."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="So many at once."
)
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    metavar="X",
    help="An incident's requests so many times as fast as they came.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.5, 3600),
    default=30.0,
    show_default=True,
    metavar="S",
    help="A server that gives a known-good request nothing for so many seconds hangs.",
)
@click.option(
    "--settle",
    type=click.FloatRange(0, 600),
    metavar="S",
    help="How long the server is watched after an answer. [default: 1, after a bad answer 3]",
)
@click.option(
    "--wait",
    type=click.FloatRange(1, 86_400),
    default=900.0,
    show_default=True,
    metavar="S",
    help="How long the server may take to come back.",
)
@click.option(
    "--state",
    "state_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="--bisect: where its tries are kept, so that it can go on. [default: bisect-ID.jsonl]",
)
@click.option("--no-minimise", is_flag=True, help="--bisect: leave the request that kills as it is.")
@click.option("--redact", is_flag=True, help="--bisect: hide texts in the smallest request where they are not needed.")
@click.option("--allow-production", is_flag=True, help="Send an incident to the very backend that it befell.")
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    metavar="NAME=ENV",
    help="Put what was not recorded back: the header or query parameter NAME, from the variable ENV.",
)
@click.option("--no-credentials", is_flag=True, help="Send it without those that were not recorded.")
@click.option("--header", "-H", "headers", multiple=True, metavar="'K: V'", help="Send this header, too.")
@click.option(
    "--header-file",
    "header_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Send the headers in this file, a line each: for credentials.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as one JSON object, not the answer.")
@options.journal_or_bucket
def command(
    id: str,
    url: str | None,
    as_curl: bool,
    bisect: bool,
    confirm: int,
    restart: str | None,
    health: str | None,
    repeat: int,
    concurrency: int,
    speed: float,
    patience: float,
    settle: float | None,
    wait: float,
    state_file: Path | None,
    no_minimise: bool,
    redact: bool,
    allow_production: bool,
    credentials: Sequence[str],
    no_credentials: bool,
    headers: Sequence[str],
    header_files: Sequence[Path],
    as_json: bool,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Send a recorded request again, or all of an incident, and say what that does to the server.

    The method, path, headers and body are the recorded ones, to the byte. Credentials were never recorded:
    --credential names the variables that hold them, once for each (in `authorization` a token alone is sent as
    `Bearer TOKEN`; in a query what has to be percent-encoded is). The answer goes to stdout as it comes, its status
    and the verdict to stderr. Then the server has to answer a request that the journal knows to be good.

    Exit code 0: the answer is whole and of the class that was recorded, and the server is alive. 1: the request killed
    the server, hung it or broke the answer, or the answer is of another class: so does a recorded failure of the
    backend that is answered well here, which says that it was not reproduced. 2: a credential is missing, and nothing
    was sent.

    An INCIDENT (see `extproc incidents`) is sent as it was: its requests in their order, with the times between them.
    With --bisect its suspects are tried alone, then after the requests that may have prepared their way, then together,
    until the server dies; it has to come back each time, by --restart or by somebody else's hand. A search that is
    ended goes on where it was when the same command is given again.

    \b
    Examples:
      extproc replay 019aa3f2 --to http://gpu-test:8000 --no-credentials
      extproc replay 019aa3f2 --to http://gpu-test:8000 --credential authorization=TEST_KEY
      extproc replay 019aa3f2 --to http://gpu-test:8000 --curl > crash.sh
      extproc replay last --bisect --to http://gpu-test:8000 --restart "ssh gpu-test systemctl restart vllm"
    """
    if not as_curl and url is None:
        raise click.UsageError("--to URL or --curl says what to do.")
    if as_curl and bisect:
        raise click.UsageError("--bisect and --curl exclude each other.")
    given = sending.given_credentials(credentials), sending.given_headers(headers, header_files)
    directories = options.existing(data_dirs, config_path, Span.of_ids([id]))
    if as_curl:
        _print_curl(options.one(id, directories), url, given, silent=no_credentials)
        return
    assert url is not None
    asked = _Asked(
        url, directories, Credentials(*given, optional=no_credentials), restart, health,
        _patience(patience, settle, wait), speed, repeat, concurrency, confirm, not no_minimise, redact, state_file,
        allow_production, as_json,
    )  # fmt: skip
    if not _run(id, asked, bisect=bisect):
        click.get_current_context().exit(1)


def _patience(answer: float, settle: float | None, back: float) -> Patience:
    given = Patience(answer=answer, back=back)
    return given if settle is None else replace(given, settle=settle, settle_bad=settle)


def _run(id: str, asked: _Asked, *, bisect: bool) -> bool:
    """Whether all was well. Raises ConfigError where a credential is missing: nothing was sent then."""
    try:
        return _run_with(id, asked, bisect=bisect)
    except MissingCredentialsError as error:
        raise ConfigError(
            f"nothing was sent: {output.escape(str(error))}; --credential NAME=ENV puts it back from a variable, "
            "--no-credentials sends the request without it"
        ) from error


def _run_with(id: str, asked: _Asked, *, bisect: bool) -> bool:
    if not ID.fullmatch(id) and not (bisect and id == "last"):
        exchange = options.one(id, asked.directories)
        found = _material_of(exchange, asked)
        return _bisect(exchange.id, found, asked) if bisect else _once(exchange, found, asked)
    with options.answers(asked.directories) as journal:
        incident = material.find_incident(journal, id)
        _refuse_production(incident, asked)
        found = material.of_incident(incident, journal, asked.credentials)
    return _bisect(incident.id, found, asked) if bisect else _window(incident, found, asked)


def _refuse_production(incident: Incident, asked: _Asked) -> None:
    if not asked.production and addresses.same(asked.url, incident.sighting.upstream):
        raise ExtprocError(
            f"{asked.url} is {incident.sighting.upstream}, the backend that this befell; use a test server of the same "
            "version, or --allow-production"
        )


def _material_of(exchange: Exchange, asked: _Asked) -> Material:
    _warn_of_a_part(exchange)
    with options.answers(asked.directories) as journal:
        return material.of_exchange(exchange, journal, asked.credentials)


def _warn_of_a_part(exchange: Exchange) -> None:
    body, part = material.whole_body(exchange), exchange.request or NO_REQUEST
    if part.ended_by is None or part.truncated:
        click.echo(f"the recorded body is not the whole one: {len(body)} bytes had come", err=True)


def _print_curl(
    exchange: Exchange,
    url: str | None,
    given: tuple[Mapping[str, Sequence[str]], Sequence[tuple[str, bytes]]],
    *,
    silent: bool,
) -> None:
    body = material.whole_body(exchange)
    _warn_of_a_part(exchange)
    request = prepare(exchange, body, *given)
    if request.missing and not silent:
        missing = output.escape(", ".join(request.missing))
        click.echo(f"not recorded and left out: {missing} (--credential NAME=ENV puts it back)", err=True)
    click.echo(curl.script(request, url).encode(), nl=False)


# One request -------------------------------------------------------------------------------------------------


def _once(exchange: Exchange, found: Material, asked: _Asked) -> bool:
    request = found.steps[exchange.id].request
    target = asked.target(found.known_good)
    before = State(Health.ALIVE, "", target.started())
    answers: list[Answer] = []
    verdict = None
    for start in range(0, asked.repeat, asked.concurrency):
        together = min(asked.concurrency, asked.repeat - start)
        answers += _send(request, together, target, shown=asked.repeat == 1 and not asked.as_json)
        if start == 0 and all(each.outcome.value == "upstream_connect_fail" for each in answers):
            raise ExtprocError(f"{asked.url}: {answers[0].error}")
        state = target.after(before, answers)
        verdict = judge(exchange, answers, state)
        if not state.alive:
            if asked.restart is not None:
                target.bring_back()
            break
    assert verdict is not None
    _tell(exchange, answers, verdict, asked)
    return verdict.fine


def _send(request: Request, together: int, target: Target, *, shown: bool) -> list[Answer]:
    if not shown:
        steps = [Step(request, 0.0)] * together
        return window.play(steps, target.url, lambda: target.state().alive, target.patience.answer)
    printed = Sending(request, target.url, _Printer())
    printed.start()
    while not printed.wait(1.0):
        # A model may think for an hour; one that answers nobody else does not think.
        if printed.silent > target.patience.answer and not target.state().alive:
            printed.give_up(f"no answer in {target.patience.answer:g} s, and the server answers nobody")
    return [printed.answer]


def _tell(exchange: Exchange, answers: Sequence[Answer], verdict: Verdict, asked: _Asked) -> None:
    click.echo(output.escape(verdict.text), err=True)
    if asked.as_json:
        fields = {
            "verdict": verdict.kind.value,
            "why": verdict.text,
            "exchange": exchange.id,
            "recorded": exchange.outcome,
            "answers": [_fields(each) for each in answers],
        }
        click.echo(output.json_line(fields))


def _fields(answer: Answer) -> dict[str, Any]:
    return {
        "outcome": answer.outcome.value,
        "class": answer.kind,
        "status": answer.status,
        "bytes": answer.bytes,
        "seconds": round(answer.seconds, 3),
        "error": answer.error or None,
    }


class _Printer(Hearer):
    """The answer's bytes as they are into a pipe, and made harmless for a terminal."""

    def status(self, answer: http.client.HTTPResponse) -> None:
        version = "1.1" if answer.version == 11 else "1.0"
        click.echo(f"HTTP/{version} {answer.status} {output.escape(answer.reason)}", err=True)

    def data(self, data: bytes) -> None:
        if output.is_terminal():
            sys.stdout.write(output.escape_text(data.decode("utf-8", "backslashreplace")))
            sys.stdout.flush()
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


# An incident -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """What one play of an incident's requests came to."""

    state: State
    answers: int
    bad: int

    def __str__(self) -> str:
        return f"the target {self.state.fate} ({self.state.text}); {self.bad} of {self.answers} answers were bad"

    def fields(self) -> dict[str, Any]:
        """As `--json` has it."""
        state = self.state
        return {"target": state.health.value, "why": state.text, "answers": self.answers, "bad": self.bad}


def _window(incident: Incident, found: Material, asked: _Asked) -> bool:
    """All of it as it was, once or more often."""
    target = asked.target(found.known_good)
    state = target.state()
    if not state.alive:
        raise ExtprocError(f"{asked.url} fails before anything was sent: {state.text}")
    steps = [found.steps[id] for id in found.window]
    _report(f"{incident.id}: {len(steps)} requests to {asked.url}, as they came")
    runs: list[_Run] = []
    for number in range(1, asked.repeat + 1):
        if runs and not runs[-1].state.alive:
            state = target.bring_back()
        answers = window.play(steps, asked.url, lambda: target.state().alive, asked.patience.answer, speed=asked.speed)
        state = target.after(state, answers)
        run = _Run(state, len(answers), sum(each.is_failure for each in answers))
        runs.append(run)
        _report(f"run {number} of {asked.repeat}: {run}")
    if not runs[-1].state.alive and asked.restart is not None:
        target.bring_back()
    deaths, broke = sum(not run.state.alive for run in runs), any(run.bad for run in runs)
    if asked.as_json:
        verdict = "killed" if deaths else "broke" if broke else "as_recorded"
        told = {"verdict": verdict, "incident": incident.id, "deaths": deaths, "runs": [run.fields() for run in runs]}
        click.echo(output.json_line(told))
    return not deaths and not broke


def _bisect(name: str, found: Material, asked: _Asked) -> bool:
    asked = replace(asked, state_file=asked.state_file or Path(f"bisect-{name}.jsonl"))
    tries = Tries(asked.state_file)
    known = "" if not tries.known_tries else f", {tries.known_tries} of them known"
    _report(f"{name}: {len(found.suspects)} suspects, {len(found.window)} requests; tries in {asked.state_file}{known}")
    wishes = Wishes(confirm=asked.confirm, speed=asked.speed, minimal=asked.minimal, redact=asked.redact)
    proof = prove.prove(found, asked.target(found.known_good), tries, wishes, _report)
    if asked.as_json:
        click.echo(output.json_line(_proof_fields(proof, asked.url)))
    else:
        for line in _proof_lines(proof, asked.url):
            click.echo(line)
    return proof.verdict == prove.NOT_PROVEN


def _proof_fields(proof: Proof, url: str) -> dict[str, Any]:
    script = None if proof.request is None else curl.script(proof.request, url)
    return {**proof.fields(), "curl": script}


def _proof_lines(proof: Proof, url: str) -> Iterator[str]:
    yield f"{proof.verdict}: {output.escape(proof.why)}"
    for id in proof.killers:
        yield f"killer: {id}"
    if proof.latch is not None:
        yield f"only after: {proof.latch}"
    yield f"{proof.tries} tries, {proof.restarts} restarts"
    if proof.request is not None:
        yield ""
        yield "The smallest request that kills:"
        yield output.escape(output.json_line(proof.minimal))
        yield ""
        yield curl.script(proof.request, url).rstrip("\n")


def _report(text: str) -> None:
    click.echo(output.escape(text), err=True)
