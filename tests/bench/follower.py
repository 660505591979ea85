"""How many exchanges a second the follower takes on one core, over a journal that is there: part of `make bench`.

Run alone as `python tests/bench/follower.py [EXCHANGES]`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.processes import Program
from support.recorded import Recording

from extproc.config import Config
from extproc.follow.follower import Consumer, Follower
from extproc.history.index.indexer import Indexer
from extproc.incidents.indexed import Bodies
from extproc.processes import gc
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tracing import Tracing

EXCHANGES = 10_000
PROMPT = b'{"model":"gpt-oss-120b","temperature":0.7,"stream":%b,"messages":[{"role":"user","content":"%b"}]}'
EVENT = (
    b'data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-oss-120b",'
    b'"choices":[{"index":0,"delta":{"content":"token "}}]}\n\n'
)
FINISH = (
    b'data: {"id":"c1","model":"gpt-oss-120b","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":300,"completion_tokens":60,"total_tokens":360}}\n\n',
    b"data: [DONE]\n\n",
)
SSE = (("content-type", "text/event-stream"),)


def record(directory: Path, exchanges: int) -> None:
    """A journal: prompts of 1.5 KB, two answers of five streamed in sixty chunks, the others whole."""
    with Recording(directory, inline_body_bytes=65536) as recording:
        for number in range(exchanges):
            if number % 5 < 2:
                id = recording.add(PROMPT % (b"true", b"x" * 1400), (*(EVENT,) * 60, *FINISH), answer_headers=SSE)
            else:
                id = recording.add(PROMPT % (b"false", b"x" * 1400))
            recording.add_access(id, duration_ms=900.0, request_bytes=1500, response_bytes=300, attempts=1)


def follow(
    directory: Path, consumers: Sequence[Consumer], keep_index: Callable[[Path], Indexer] | None = None
) -> tuple[float, float]:
    """Take all of it, as it comes; exchanges a second, and CPU microseconds an exchange, all threads together."""
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        data = Path(name)
        index = None if keep_index is None else keep_index(data)
        (data / "segments").mkdir(mode=0o700)
        follower = Follower(data, consumers, None, index=index)
        while follower.step():
            pass  # the index has caught up with nothing, and is given what comes from now on
        for path in (directory / "segments").iterdir():
            shutil.copy(path, data / "segments" / path.name)
        began, cpu = time.perf_counter(), time.process_time()
        while follower.step():
            pass
        follower.finish()
        while not all(consumer.flushed_to(consumer.sequence()) for consumer in consumers):
            time.sleep(0.001)
        if index is not None:
            index.close()
        seconds = time.perf_counter() - began
        return follower.exchanges / seconds, (time.process_time() - cpu) * 1e6 / follower.exchanges


def _index(directory: Path) -> Indexer:
    return Indexer(directory, reader=Bodies())


@contextmanager
def spans(directory: Path) -> Iterator[Tracing]:
    """Tracing to a collector on this machine that takes everything; the queue is as long as it has to be."""
    sink = Program([sys.executable, "-m", "bench.otlp_sink"], directory / "sink.log")
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "1000000", "OTEL_BSP_SCHEDULE_DELAY": "10"}
    tracing = Tracing.create(Config(otlp=f"http://127.0.0.1:{sink.ready[0]}"), environ)
    assert tracing is not None
    yield tracing
    tracing.close(10)
    sink.stop()


def lines(exchanges: int) -> Iterator[str]:
    """What the bench prints."""
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        record(Path(name), exchanges)
        gc.freeze_after_start()  # as the follower's process does
        for what, metrics, index, traced in (
            ("reading and joining", False, None, False),
            ("and metrics", True, None, False),
            ("and the index", True, _index, False),
            ("and spans, to a collector that takes them", True, _index, True),
        ):
            consumers: list[Consumer] = [Metrics((), {})] if metrics else []
            if traced:
                with spans(Path(name)) as tracing:
                    rate, cpu = follow(Path(name), [*consumers, tracing], index)
                    assert tracing.exported == exchanges, "spans were lost"
            else:
                rate, cpu = follow(Path(name), consumers, index)
            yield f"- follower, {what}: {rate:,.0f} exchanges/s, {cpu:.0f} us CPU an exchange"


if __name__ == "__main__":
    for line in lines(int(sys.argv[1]) if len(sys.argv) > 1 else EXCHANGES):
        print(line, flush=True)
