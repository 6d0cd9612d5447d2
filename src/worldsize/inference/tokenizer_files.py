"""A tokenizer as the files that Hugging Face's libraries open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from worldsize.data.tokenizer import ByteTokenizer, FastTokenizer, Tokenizer, tokenizers_library

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "tokenizer.model",
    "chat_template.jinja",
)
"""What travels along when a folder with a tokenizer is copied."""


def copy_tokenizer(source: Path, folder: Path) -> bool:
    """Copy the tokenizer's files from one folder to another; return whether there were any."""
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, folder / name)
    return bool(found)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json. The ids stay as they are."""
    text = tokenizer.json if isinstance(tokenizer, FastTokenizer) else _bytes_json()
    (folder / "tokenizer.json").write_text(text, "utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.end_of_text is not None:
        end = tokenizer.decode([tokenizer.end_of_text])
        config |= {"bos_token": end, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def _bytes_json() -> str:
    """Return the byte tokenizer as a byte-level BPE without merges: token i is byte i."""
    tokenizers = tokenizers_library()
    names = _byte_names()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    text: str = tokenizer.to_str()
    return text


def _byte_names() -> list[str]:
    """Return the character that byte-level tokenizers write for each byte (Radford et al. 2019).

    Bytes that are printable in Latin-1 stand for themselves; the others, in order, are the characters from 256 on.
    """
    itself = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in itself else next(others)) for byte in range(ByteTokenizer.vocab_size)]
