"""llama.cpp's server for one model, until a signal comes; prints its address. A program, run by `support/llama.py`."""

from __future__ import annotations

import signal
import sys

import xllamacpp

_PARALLEL = 4


def main(model: str, context_tokens: int, port: int, *, metrics: bool) -> None:
    """Serve the model on a port; 0: on a free one."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = port
    params.endpoint_metrics = metrics
    params.n_parallel = _PARALLEL
    params.n_ctx = _PARALLEL * context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = False
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), metrics="metrics" in sys.argv[4:])
