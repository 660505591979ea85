"""A model server that nobody here wrote: llama.cpp's, in a process of its own, with a model of 750 kB.

with LlamaServer(tmp_path) as server:
    server.url                  # answers the APIs of OpenAI and Anthropic, and llama.cpp's own

The model is a GGUF file of random weights, the same each time, that answers nonsense in a moment. A few transitions
between tokens are not random, so that tool calls come to their end: what else a call looks like, its grammar says.
"""

from __future__ import annotations

import array
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from support.stack import end

MODEL = "nonsense"
CONTEXT_TOKENS = 16_384

_WIDTH, _LAYERS, _HEADS, _INNER = 128, 1, 4, 64
_EPSILON = 1e-5

_WORDS = ("the", "fjord", "runway", "wind", "is", "of", "to", "and", "naïve", "日本", "\N{CRAB}", "tower", "no", "days")
_CHARACTERS = [*map(chr, range(0x21, 0x7F)), "▁", "\n", *(f"▁{word}" for word in _WORDS)]
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_TOKENS = [
    ("<unk>", _UNKNOWN),
    *((token, _CONTROL) for token in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")),
    *((f"<0x{byte:02X}>", _BYTE) for byte in range(256)),
    *((token, _USER_DEFINED) for token in ("<tool_call>", "</tool_call>", "<call>")),
    *((character, _NORMAL) for character in dict.fromkeys(_CHARACTERS)),
]
_IDS = {token: id for id, (token, _) in enumerate(_TOKENS)}
_SAID = _IDS["!"]
"""The first token that the model says of its own accord."""

_FOLLOWS = {"<call>": "<tool_call>", "<tool_call>": "\n", "}": "</tool_call>", "</tool_call>": "<|im_end|>"}
"""What stands after a token, where the grammar allows it."""

_SELDOM = ("<", "<tool_call>", "}", "</tool_call>")
"""What comes only where the grammar wants it: a thought that the model began would not end, and an answer would."""

# The server finds out from the template how a model writes thoughts and tool calls.
_TEMPLATE = """{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}
<think>
{{ message.reasoning_content }}
</think>
{% endif %}
{{ message.content }}{% if message.tool_calls %}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% if tools %}<call>{% endif %}{% endif %}"""


class LlamaServer:
    """The server from entering to leaving, on a port of its own choice or on this one; it ends by its process id.
    `metrics`: whether it has any."""

    def __init__(self, directory: Path, port: int = 0, *, metrics: bool = False) -> None:
        self._arguments = [str(port), *(["metrics"] if metrics else [])]
        self._model = directory / f"{MODEL}.gguf"
        self._log = directory / "llama.log"

    def __enter__(self) -> Self:
        write_model(self._model)
        program = Path(__file__).with_name("llama_process.py")
        command = [sys.executable, str(program), str(self._model), str(CONTEXT_TOKENS), *self._arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        if not ready.startswith("http://"):
            self.__exit__()
            raise AssertionError(f"no address but {ready!r}; {self._log.read_text()}")
        self.url = ready.strip()
        return self

    def __exit__(self, *exception: object) -> None:
        end(self.process, signal.SIGTERM)
        assert self.process.stdout is not None
        self.process.stdout.close()


# The model -------------------------------------------------------------------------------------------------


def write_model(path: Path) -> None:
    """A GGUF file: its metadata, the list of tensors, and from the next multiple of 32 on their values."""
    metadata, tensors = list(_metadata()), _tensors()
    infos, data = bytearray(), bytearray()
    for name, (dimensions, values) in tensors.items():
        infos += _string(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        infos += struct.pack("<IQ", 0, len(data))
        data += _aligned(values.tobytes())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + infos
    path.write_bytes(_aligned(bytes(head)) + data)


def _metadata() -> Iterator[bytes]:
    yield _entry("general.architecture", "llama")
    yield _entry("general.name", MODEL)
    for name, number in (
        ("context_length", CONTEXT_TOKENS),
        ("embedding_length", _WIDTH),
        ("block_count", _LAYERS),
        ("feed_forward_length", _INNER),
        ("attention.head_count", _HEADS),
        ("rope.dimension_count", _WIDTH // _HEADS),
        ("attention.layer_norm_rms_epsilon", _EPSILON),
    ):
        yield _entry(f"llama.{name}", number)
    yield _entry("tokenizer.ggml.model", "llama")
    yield _entry("tokenizer.ggml.tokens", [token for token, _ in _TOKENS])
    yield _entry("tokenizer.ggml.scores", [-float(id) for id in range(len(_TOKENS))])
    yield _entry("tokenizer.ggml.token_type", [type for _, type in _TOKENS])
    yield _entry("tokenizer.ggml.bos_token_id", _IDS["<s>"])
    yield _entry("tokenizer.ggml.eos_token_id", _IDS["<|im_end|>"])
    yield _entry("tokenizer.ggml.unknown_token_id", _IDS["<unk>"])
    yield _entry("tokenizer.ggml.add_space_prefix", False)
    yield _entry("tokenizer.chat_template", _TEMPLATE)


def _tensors() -> dict[str, tuple[tuple[int, ...], array.array[float]]]:
    """The weights by name, each with its dimensions, the innermost first."""
    chance = random.Random(7)

    def ones(size: int) -> tuple[tuple[int, ...], array.array[float]]:
        return (size,), array.array("f", [1.0] * size)

    def gauss(columns: int, rows: int, deviation: float) -> tuple[tuple[int, ...], array.array[float]]:
        return (columns, rows), array.array("f", (chance.gauss(0, deviation) for _ in range(columns * rows)))

    tensors = {"token_embd.weight": gauss(_WIDTH, len(_TOKENS), 1), "output.weight": gauss(_WIDTH, len(_TOKENS), 0.25)}
    _program(tensors["token_embd.weight"][1], tensors["output.weight"][1])
    tensors["output_norm.weight"] = ones(_WIDTH)
    for layer in range(_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{norm}.weight"] = ones(_WIDTH)
        for name, columns, rows in (
            *((f"attn_{part}", _WIDTH, _WIDTH) for part in ("q", "k", "v", "output")),
            *((f"ffn_{part}", _WIDTH, _INNER) for part in ("gate", "up")),
            ("ffn_down", _INNER, _WIDTH),
        ):
            tensors[f"blk.{layer}.{name}.weight"] = gauss(columns, rows, 0.05)
    return tensors


def _program(embeddings: array.array[float], output: array.array[float]) -> None:
    """Silence what is no text, and make some tokens follow others: their output is what one's embedding calls for.

    The first number is the same in all embeddings, so that the outputs have a bias there.
    """
    output[: _SAID * _WIDTH] = array.array("f", [0.0] * (_SAID * _WIDTH))
    for id in range(len(_TOKENS)):
        embeddings[id * _WIDTH] = 4.0
        output[id * _WIDTH] = 0.0 if id >= _SAID else -6.0
    for token in _SELDOM:
        output[_IDS[token] * _WIDTH] = -4.0
    for before, after in _FOLLOWS.items():
        for at in range(1, _WIDTH):
            output[_IDS[after] * _WIDTH + at] += 0.35 * embeddings[_IDS[before] * _WIDTH + at]


_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_Scalar = bool | int | float | str


def _entry(name: str, value: _Scalar | Sequence[str] | Sequence[float] | Sequence[int]) -> bytes:
    """One of the metadata. Single numbers are unsigned there, lists of them signed."""
    if isinstance(value, _Scalar):
        return _string(name) + struct.pack("<I", _type(value)) + _value(value)
    kind = _INT32 if isinstance(value[0], int) else _type(value[0])
    return _string(name) + struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(map(_value, value))


def _type(value: _Scalar) -> int:
    match value:
        case bool():
            return _BOOL
        case int():
            return _UINT32
        case float():
            return _FLOAT32
        case str():
            return _STRING


def _value(value: _Scalar) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return struct.pack({_BOOL: "<?", _UINT32: "<I", _FLOAT32: "<f"}[_type(value)], value)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 32)
