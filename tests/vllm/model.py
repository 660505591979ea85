"""A tiny Llama for vLLM, trained on the project's own documents for a minute: `python model.py OUT TEXT...`.

It says nothing of sense, but its answers end. It runs in vLLM's environment, which has torch and transformers.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

# Of vLLM's environment, not of ours.
tokenizers: Any = importlib.import_module("tokenizers")
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")

TEMPLATE = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if m.content is string else '' }}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 2048
STEPS, BATCH, LENGTH = 250, 6, 96


def paragraphs(paths: list[str]) -> list[str]:
    """What it learns from."""
    text = "\n\n".join(Path(path).read_text(encoding="utf-8") for path in paths)
    return [each.strip() for each in text.split("\n\n") if 40 < len(each) < 1200]


def tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8, special_tokens=SPECIAL, initial_alphabet=alphabet
    )
    made.train_from_iterator(texts, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def train(texts: list[str], words: Any) -> Any:
    """The model, whose answers end after some dozens of tokens."""
    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            tie_word_embeddings=False,
        )
    )
    turns = [turn for text in texts for turn in (_turn(text), _turn(text), _turn(text))]
    random.shuffle(turns)
    tokens = torch.tensor([token for turn in turns for token in words.encode(turn)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        starts = torch.randint(0, len(tokens) - LENGTH - 1, (BATCH,))
        batch = torch.stack([tokens[start : start + LENGTH] for start in starts])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def _turn(text: str) -> str:
    words = text.split()
    asked = words[: random.randint(2, 8)]
    start = random.randrange(max(1, len(words) - 8))
    said = words[start : start + random.randint(6, 60)]
    return f"<|im_start|>user\n{' '.join(asked)}<|im_end|>\n<|im_start|>assistant\n{' '.join(said)}<|im_end|>\n"


def main(out: str, paths: list[str]) -> None:
    """Make it, unless it is there."""
    if (Path(out) / "generation_config.json").exists():
        return
    texts = paragraphs(paths)
    words = tokenizer(texts)
    model = train(texts, words)
    words.save_pretrained(out)
    model.save_pretrained(out)
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "_from_model_config": True}
    (Path(out) / "generation_config.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
