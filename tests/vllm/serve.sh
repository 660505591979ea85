#!/bin/sh
# Start vLLM on a port anew, one that still runs, too: serve.sh VENV MODEL PORT. Its process group stands in MODEL.PORT.pid.
pid="$2.$3.pid"
if [ -f "$pid" ]; then kill -9 -"$(cat "$pid")" 2>/dev/null; sleep 1; fi
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=all OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
    TORCH_COMPILE_DISABLE=1 VLLM_NO_USAGE_STATS=1 PATH="$1/bin:$PATH"
setsid sh -c 'echo $$ > "$1"; shift; exec "$@"' sh "$pid" vllm serve "$2" --served-model-name tiny --host 127.0.0.1 \
    --port "$3" --dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 64 > "$2.$3.log" 2>&1 &
sleep 0.5
